"""Log Z between two bounds: they hold the exact one, in probability, and say how wide they are."""

import numpy as np
import pytest
from enumerated import binary, categorical, fast_key, gaussian, log_joint, log_probs, visible_states

import chainrule as cr
from chainrule.inference.annealing import SandwichStatus

CASES = {
    "binary": binary(0, 6, 4, 1.0),
    "softmax": categorical(1, 3, 3, 3, 1.0),
    "rectified": binary(0, 4, 2, 0.7, hidden=cr.units.Rectified()),
    "gaussian": gaussian(),
}


def rows_of(name):
    """500 rows of a machine's own distribution, drawn from a table where there is one."""
    machine = CASES[name]
    if name in ("rectified", "gaussian"):
        return machine.sample(fast_key(9), 500, sweeps=50)
    v, p = visible_states(machine), np.exp(log_probs(machine)[0])
    return v[np.random.default_rng(9).choice(len(v), 500, p=p / p.sum())]


@pytest.mark.parametrize("name", list(CASES))
@pytest.mark.parametrize("seed", [0, 1])
def test_exact_log_z_is_within_the_bounds_errors(name, seed):
    machine = CASES[name]
    wanted = float(machine.log_partition())
    data = rows_of(name)
    bounds = machine.log_partition_bounds(fast_key(seed), data, chains=500, stops=100, burn_in=50)
    found = bounds.sandwich
    assert abs(bounds.lower - wanted) < 4.5 * float(found.lower_error) + 1e-4
    assert abs(bounds.upper - wanted) < 4.5 * float(found.upper_error) + 1e-4
    assert bounds.status is SandwichStatus.TIGHT
    low, high = bounds.log_prob(data)
    assert low == pytest.approx(float(machine.log_prob(data).mean()), abs=4.5 * float(found.upper_error) + 1e-4)
    assert high - low == pytest.approx(bounds.gap, abs=1e-4)
    assert "TIGHT" in repr(bounds)


def test_few_stops_leave_a_wide_gap_that_is_reported():
    machine = binary(6, 6, 4, 6.0)
    data = np.random.default_rng(0).integers(0, 2, (100, 6))
    rough = machine.log_partition_bounds(fast_key(1), data, chains=500, stops=3, burn_in=50, tolerance=0.5)
    assert rough.status is SandwichStatus.WIDE
    assert rough.lower < float(machine.log_partition()) < rough.upper
    fine = machine.log_partition_bounds(fast_key(1), data, chains=500, stops=100, burn_in=200)
    assert abs(fine.gap) < rough.gap


def test_the_sandwich_compiles_once_and_checks_its_settings():
    from chainrule.models.rbm import likelihood

    machine, data = CASES["binary"], np.ones((20, 6))
    machine.log_partition_bounds(fast_key(0), data, chains=500, stops=100, burn_in=5)
    before = likelihood._bounds._cache_size()
    binary(7, 6, 4).log_partition_bounds(fast_key(1), 1 - data, chains=500, stops=100, burn_in=9, tolerance=2.0)
    assert likelihood._bounds._cache_size() == before
    with pytest.raises(ValueError, match="chains is 1"):
        machine.log_partition_bounds(fast_key(0), data, chains=1)
    assert machine.conservative_log_prob(fast_key(0), data[0], data, stops=2).shape == ()


@pytest.mark.parametrize("name", ["binary", "softmax"])
def test_conservative_estimates_are_unbiased_for_the_annealed_distribution(name):
    """With two stops that distribution is the base itself, exactly; with many it is the machine's own."""
    machine = CASES[name]
    v = visible_states(machine)
    data = rows_of(name)
    values = machine.visible.start(data, None)[0]
    base = cr.RBM(np.zeros((len(values), 1)), values, visible=machine.visible)
    found = machine.conservative_log_prob(fast_key(0), v, data, stops=2)
    np.testing.assert_allclose(found, log_probs(base)[0], atol=2e-5)
    found = np.asarray(machine.conservative_log_prob(fast_key(0), v, data, stops=200, walks=50))
    np.testing.assert_allclose(found, machine.log_prob(v), atol=0.15)
    with pytest.raises(ValueError, match="walks is 0"):
        machine.conservative_log_prob(fast_key(0), v, data, walks=0)


def test_oracles_agree_on_softmax_units():
    """The enumerated log Z of softmax units is a sum over one-hot columns too."""
    machine = CASES["softmax"]
    total = np.logaddexp.reduce(log_joint(machine, visible_states(machine)).ravel())
    assert log_probs(machine)[1] == pytest.approx(total, rel=1e-12)
    assert float(machine.log_partition()) == pytest.approx(total, rel=1e-7)
