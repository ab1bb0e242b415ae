"""What policies do: visits, walks and worth, by hand, by another formula, and under `jit` and `vmap`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import chainrule as cr
from chainrule.models import mdp_worth
from chainrule.models.mdp_experience import _draw

TWO = np.array([[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [1.0, 0.0]]])


def pair(**options):
    """Stay or switch between two states; being in the second pays."""
    return cr.MDP(TWO, np.array([[0.0, 0.0], [1.0, 0.0]]), **({"discount": 0.9, "states": ("home", "away")} | options))


def test_visits_to_a_state_that_stays_unpaid_are_counted():
    mdp = cr.MDP([[[0, 1.0]], [[0, 1.0]]], [[1.0], [0.0]], discount=0.9, initial=[1.0, 0])
    for policy in ([0, 0], [[1.0], [1.0]]):
        np.testing.assert_allclose(mdp.occupancy(policy), [[1], [9]], atol=1e-12)
    value = jax.grad(lambda r: mdp.replace(rewards=r).evaluate([0, 0]).values[0])(jnp.array([[1.0], [0.0]]))
    np.testing.assert_allclose(mdp.occupancy([0, 0]), value, rtol=1e-4)


@pytest.mark.parametrize("seed", range(4))
def test_visits_without_an_end_are_refused_where_the_start_leads_there(seed):
    probs = np.zeros((5, 2, 5))
    probs[:3, 0, :3] = np.random.default_rng(seed).dirichlet(np.ones(3), 3)  # action 0 goes round, action 1 ends
    probs[:3, 1, 3] = 1
    probs[3, :, 3] = 1
    probs[4, :, 4] = 1
    mdp = cr.MDP(probs, np.ones((5, 2)), terminal=[0, 0, 0, 1, 0], initial=[1.0, 0, 0, 0, 0], states="abcde")
    with pytest.raises(
        ValueError, match="stay for ever in and around state 'a', which is then visited infinitely often"
    ):
        mdp.occupancy([0, 0, 0, 0, 0])
    np.testing.assert_allclose(mdp.occupancy([1, 0, 0, 0, 0]).sum(0), [0, 1])  # what cannot be reached is no matter
    mixed = np.full((5, 2), 0.5)
    found = mdp.occupancy(mixed)
    inner = 0.5 * probs[:3, 0, :3]
    np.testing.assert_allclose(found.sum(1)[:3], np.linalg.solve(np.eye(3) - inner.T, [1, 0, 0]), rtol=1e-12)
    assert (found[3:] == 0).all()


def test_visits_of_wide_chains_are_solved_by_products():
    rng = np.random.default_rng(0)
    size = 3000
    successors = rng.integers(0, size, (size, 1, 6))
    mdp = cr.MDP(rng.dirichlet(np.ones(6), (size, 1)), rng.random((size, 1)), successors=successors, discount=0.99)
    start = rng.dirichlet(np.ones(size))
    visits = mdp.occupancy(np.zeros(size, int), start=start)
    assert visits.sum() == pytest.approx(100, rel=1e-10)
    assert (visits * mdp.transitions.rewards).sum() == pytest.approx(
        start @ mdp.evaluate(np.zeros(size, int)).values, rel=1e-9
    )


def test_starts_are_states_or_distributions():
    mdp = pair()
    half = mdp.occupancy([0, 0], start=[0.5, 0.5])
    np.testing.assert_allclose(half, mdp.occupancy([0, 0], start=np.array([0.5, 0.5])))
    np.testing.assert_allclose(
        half, 0.5 * mdp.occupancy([0, 0], start="home") + 0.5 * mdp.occupancy([0, 0], start="away")
    )
    np.testing.assert_allclose(half, mdp.occupancy([0, 0], start=(0.5, 0.5)))
    np.testing.assert_allclose(half, mdp.occupancy([0, 0], start=jnp.array([0.5, 0.5])))
    corners = pair(states=((0, 0), (0, 1)))
    np.testing.assert_allclose(corners.occupancy([0, 0], start=(0, 1)).sum(1), [0, 10])
    limited = cr.criteria.Constrained({"effort": [[0, 1.0], [0, 1.0]]}, {"effort": 1.0}, initial=(0, 0))
    assert corners.solve(criterion=limited).details["worth"] == pytest.approx(9)
    with pytest.raises(ValueError, match=r"initial has shape \(3,\)"):
        mdp.occupancy([0, 0], start=[1.0, 0, 0])


def test_another_start():
    mdp = pair(initial=[1.0, 0.0])
    moved = mdp.replace(initial=[0.25, 0.75])
    np.testing.assert_array_equal(moved.initial, [0.25, 0.75])
    np.testing.assert_allclose(moved.occupancy([0, 0]).sum(1), [2.5, 7.5])
    with pytest.raises(ValueError, match=r"initial must be probabilities that sum to one; got a sum of 0\.5"):
        mdp.replace(initial=[0.5, 0.0])
    with pytest.raises(ValueError, match="where does it start"):
        mdp.replace(initial=None).occupancy([0, 0])


def test_traced_processes_have_values_and_walks():
    mdp, policy = pair(initial=[1.0, 0.0]), np.array([1, 0])
    told = {"home": 1, "away": {0: 1.0}}
    wanted = mdp.evaluate(policy).values

    @jax.jit
    def ask(m, start):
        other = m.replace(discount=0.5, initial=start)
        walks = m.simulate(jax.random.key(0), policy, 3, num_samples=2)
        return (
            m.evaluate(policy).values,
            m.evaluate(told).values,
            other.evaluate(policy).values,
            walks.states,
            other.initial,
        )

    values, named, other, states, start = ask(mdp, jnp.array([0.25, 0.75]))
    np.testing.assert_allclose(values, wanted, rtol=1e-5)
    np.testing.assert_allclose(named, wanted, rtol=1e-5)
    np.testing.assert_allclose(other, mdp.replace(discount=0.5).evaluate(policy).values, rtol=1e-5)
    np.testing.assert_array_equal(states, [[0, 1, 1, 1]] * 2)
    np.testing.assert_allclose(start, [0.25, 0.75])
    with pytest.raises(ValueError, match="takes action 7 in state 'away'"):
        jax.eval_shape(lambda m: m.evaluate(np.array([0, 7])).values, mdp)
    for name in ("occupancy", "chain", "fit"):
        with pytest.raises(ValueError, match=f"{name} is computed on the host"):
            jax.eval_shape(lambda m, name=name: getattr(m, name)(policy), mdp)


def test_one_policy_over_posterior_draws():
    draws = pair(initial=[1.0, 0.0]).posterior(jax.random.key(0), [("home", 0, 0.0, "home")], num_draws=3)
    found = jax.vmap(lambda m: m.replace(discount=0.5).evaluate(np.array([1, 0])).values)(draws)
    rows, rewards = np.asarray(draws.transitions.probabilities), np.asarray(draws.transitions.rewards)
    for n in range(3):
        chain = rows[n][[0, 1], [1, 0]]
        wanted = np.linalg.solve(np.eye(2) - 0.5 * chain, rewards[n][[0, 1], [1, 0]])
        np.testing.assert_allclose(found[n], wanted, rtol=1e-5)


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (jnp.array([[0.2, 0.2], [0.4, 0.0]]), "probabilities in state 'home' sum to 0.4, not 1"),
        (jnp.array([[2.0, -1.0], [1.0, 0.0]]), "negative probabilities in state 'home'"),
        (jnp.array([[1.0, 0.0], [jnp.nan, 1.0]]), "negative probabilities in state 'away'"),
        (jnp.array([0, 1]), "takes action 'go' in state 'away', which is not feasible"),
        (jnp.array([0, 7]), "takes action 7 in state 'away'"),
        (np.array([[0, 0], [0, 1]]), "takes action 'go' in state 'away' at step 1"),
        (np.array([["stay", "go"]]), "Names go into a dict"),
        (np.zeros((1, 2, 3)), r"shape \(1, 2, 3\); wanted .* or that for each step"),
    ],
)
def test_policies_are_checked_whoever_holds_the_array(policy, message):
    mdp = pair(mask=[[True, True], [True, False]], actions=("stay", "go"))
    for ask in (mdp.evaluate, lambda p: mdp.simulate(jax.random.key(0), p, 1, start="home")):
        with pytest.raises(ValueError, match=message):
            ask(policy)


def test_policies_by_steps():
    mdp = pair(initial=[1.0, 0.0])
    solution = mdp.solve(horizon=4)
    found = mdp.evaluate(solution.policy)
    np.testing.assert_allclose(found.values, solution.values, atol=1e-12)
    assert found.status is cr.SolveStatus.CERTIFIED
    assert ((found.lower <= solution.values) & (solution.values <= found.upper)).all()
    shares, final = np.array([[[0.5, 0.5], [1, 0]], [[0.25, 0.75], [0, 1]]]), np.array([2.0, 4.0])
    last = [0.25 * 0.9 * 2 + 0.75 * 0.9 * 4, 0.9 * 2]
    wanted = [[0.45 * sum(last), 1 + 0.9 * last[1]], last, final]
    np.testing.assert_allclose(mdp.evaluate(shares, final=final).values, wanted)
    traced = jax.jit(lambda m, p: m.evaluate(p, final=final).values)(mdp, jnp.asarray(shares))
    np.testing.assert_allclose(traced, wanted, rtol=1e-5)
    walks = mdp.simulate(jax.random.key(0), solution.policy, 3)
    assert walks.labels() == ["home", "away", "away", "away"]
    with pytest.raises(ValueError, match="length is 5, but the policy says what to do in 4 steps only"):
        mdp.simulate(jax.random.key(0), solution.policy, 5)
    with pytest.raises(ValueError, match=r"depends on the step, of which it has 4; .* policy.table\[t\]"):
        mdp.chain(solution.policy)
    with pytest.raises(ValueError, match="the policy has no steps"):
        mdp.evaluate([0, 0], final=final)


def test_what_is_between_the_bounds_is_said():
    mdp = pair()
    assert mdp.evaluate([1, 0]).status is cr.SolveStatus.CERTIFIED
    assert mdp.evaluate([1, 0], tolerance=1e-18).status is cr.SolveStatus.PRECISION
    assert repr(mdp.evaluate([1, 0])).startswith("Evaluation(2 states, CERTIFIED, gap=")
    endless = pair(discount=1.0).evaluate([0, 0])
    assert endless["away"] == np.inf
    assert endless.status is cr.SolveStatus.CERTIFIED
    assert jax.eval_shape(lambda m: m.evaluate([0, 0]), mdp).status is None
    with pytest.raises(ValueError, match="total reward from state 'home' does not settle: gains and losses cancel"):
        pair(discount=1.0).replace(rewards=[[0.0, 1.0], [0.0, -1.0]]).evaluate([1, 1])


def test_probabilities_that_rounding_left_beside_one():
    mdp = cr.MDP([[[1.0], [1.0]]], [[1.0, 1.0]], discount=0.999999)
    found = mdp.evaluate(np.array([[0.500004, 0.500004]]))
    assert found[0] == pytest.approx(1e6, rel=1e-9)
    assert mdp.occupancy(np.array([[0.500004, 0.500004]]), start=0).sum() == pytest.approx(1e6, rel=1e-9)


@pytest.mark.parametrize("size", [50, 1000])
def test_bounds_hold_where_products_do_not_get_there(monkeypatch, size):
    """A fair walk to one end, n(2S − 1 − n) steps from n on: Krylov methods find few digits, or none."""
    monkeypatch.setattr(mdp_worth, "is_narrow", lambda matrix, work: False)
    n = np.arange(size)
    successors = np.stack([np.minimum(n + 1, size - 1), np.maximum(n - 1, 0)], 1)[:, None]
    mdp = cr.MDP(np.full((size, 1, 2), 0.5), -np.ones((size, 1)), successors=successors, terminal=n == 0)
    found, truth = mdp.evaluate(np.zeros(size, int)), -n * (2 * size - 1.0 - n)
    assert (found.lower <= truth).all()
    assert (truth <= found.upper).all()
    assert found.gap > 0
    if size == 50:
        assert found.status is cr.SolveStatus.CERTIFIED


def test_large_closed_classes_need_no_dense_matrix():
    size = 30_000
    ring = ((np.arange(size) + 1) % size)[:, None, None]
    mixed = np.where(np.arange(size) % 3 == 0, -1.0, 1.0)[:, None]
    mdp = cr.MDP(np.ones((size, 1, 1)), mixed, successors=ring)
    assert (mdp.evaluate(np.zeros(size, int)).values == np.inf).all()


def test_draws_never_take_what_cannot_happen():
    weights = jnp.array([[0.0, 0.3, 0.0, 0.1, 0.0]] * 5)
    np.testing.assert_array_equal(_draw(weights, jnp.array([0.0, 0.5, 0.74, 0.76, 1.0])), [1, 1, 1, 3, 3])
