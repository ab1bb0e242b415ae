"""MDPs from every source, answers by name, walks, learning, and clear errors."""

import jax
import jax.numpy as jnp
import networkx as nx
import numpy as np
import pytest
from scipy import sparse

import chainrule as cr


def machine():
    """A machine by hand: run it fast or slowly, or repair it; it may break."""
    graph = nx.MultiDiGraph()
    graph.add_node("cool", initial=1.0)
    graph.add_node("broken", terminal=True)
    for state, action, target, prob, reward in [
        ("cool", "slow", "cool", 1.0, 1.0),
        ("cool", "fast", "cool", 0.5, 2.0),
        ("cool", "fast", "warm", 0.5, 2.0),
        ("warm", "slow", "cool", 0.5, 1.0),
        ("warm", "slow", "warm", 0.5, 1.0),
        ("warm", "fast", "broken", 1.0, -10.0),
    ]:
        graph.add_edge(state, target, action=action, probability=prob, reward=reward)
    return graph


def test_a_graph_by_hand():
    """Racing car: v(cool) = 2 + γ(v(cool) + v(warm))/2, v(warm) = 1 + γ(v(cool) + v(warm))/2 = v(cool) − 1."""
    mdp = cr.MDP.from_graph(machine(), discount=0.9)
    solution = mdp.solve()
    cool = (2 - 0.45) / (1 - 0.9)
    assert solution["cool"] == pytest.approx(cool, abs=1e-6)
    assert solution["warm"] == pytest.approx(cool - 1, abs=1e-6)
    assert solution["broken"] == 0
    assert dict(solution.policy.items()) == {"cool": "fast", "broken": None, "warm": "slow"}
    assert solution.best_actions("cool") == ["fast"]
    assert repr(mdp) == "MDP(3 states, 2 actions)"
    assert repr(solution).startswith("Solution(3 states, CERTIFIED, gap=")
    assert mdp.states == ("cool", "broken", "warm")
    again = cr.MDP.from_graph(mdp.graph(), discount=0.9).solve()
    np.testing.assert_allclose(again.values, solution.values, atol=2e-6)
    assert mdp.graph().nodes["cool"]["initial"] == 1


def test_rewards_that_depend_on_the_successor():
    rng = np.random.default_rng(0)
    probs, paid = rng.dirichlet(np.ones(3), (3, 2)), rng.normal(size=(3, 2, 3))
    mdp = cr.MDP(probs, paid, discount=0.9)
    expected = cr.MDP(probs, (probs * paid).sum(-1), discount=0.9)
    np.testing.assert_allclose(mdp.solve().values, expected.solve().values, atol=2e-6)
    by_state = cr.MDP(probs, paid[:, 0, 0], discount=0.9)
    assert by_state.transitions.rewards.shape == (3, 2)
    half = mdp.replace(discount=0.5)
    assert half.transitions.outcome_rewards is not None
    assert float(half.discount) == 0.5


def test_sparse_matrices():
    rng = np.random.default_rng(1)
    mdp = cr.MDP.random(jax.random.key(0), 20, 3, num_successors=2, discount=0.9)
    probs, successors = np.asarray(mdp.transitions.probabilities), np.asarray(mdp.transitions.successors)
    states = np.repeat(np.arange(20), 2)
    parts = [
        sparse.coo_array((probs[:, a].ravel(), (states, successors[:, a].ravel())), shape=(20, 20)) for a in range(3)
    ]
    rewards = np.asarray(mdp.transitions.rewards)
    wanted = mdp.solve().values
    np.testing.assert_allclose(cr.MDP.from_sparse(parts, rewards, discount=0.9).solve().values, wanted, atol=2e-6)
    stacked = sparse.vstack(parts).tocsr()[np.arange(60).reshape(3, 20).T.ravel()]
    one = cr.MDP.from_sparse(stacked, rewards, num_actions=3, discount=0.9, states=[f"s{i}" for i in range(20)])
    assert one.solve()["s3"] == pytest.approx(wanted[3], abs=2e-6)
    paid = [sparse.csr_array(part.toarray() * rng.normal()) for part in parts]
    by_outcome = cr.MDP.from_sparse(parts, paid, discount=0.9)
    expected = np.stack([(p.toarray() * r.toarray()).sum(1) for p, r in zip(parts, paid, strict=True)], 1)
    np.testing.assert_allclose(by_outcome.transitions.rewards, expected, atol=1e-12)
    parts[2] = sparse.csr_array((20, 20))  # never feasible
    assert not np.asarray(cr.MDP.from_sparse(parts, rewards, discount=0.9).transitions.mask)[:, 2].any()


def test_equal_rows_are_found_and_stored_once():
    rng = np.random.default_rng(0)
    distinct = rng.dirichlet(np.ones(6), 7)
    rows = rng.integers(0, 7, (40, 10))
    successors = rng.integers(0, 40, (7, 6))
    rewards = rng.normal(size=(40, 10))
    mdp = cr.MDP(distinct[rows], rewards, successors=successors[rows], discount=0.9)
    assert mdp.transitions.probabilities.shape == (7, 6)
    assert "7 distinct rows" in repr(mdp.transitions)
    plain = cr.Transitions(distinct[rows], rewards, successors=successors[rows], discount=0.9)
    whole = mdp.transitions.spread_out()
    np.testing.assert_array_equal(whole.probabilities, plain.probabilities)
    np.testing.assert_array_equal(whole.successors, plain.successors)
    jittered = distinct[rows].copy()
    jittered[0, 0] = np.roll(jittered[0, 0], 1)
    assert cr.MDP(jittered, rewards, successors=successors[rows], discount=0.9).transitions.probabilities.shape == (
        8,
        6,
    )
    np.testing.assert_allclose(
        mdp.replace(probabilities=jittered).solve().values,
        cr.MDP(jittered, rewards, successors=successors[rows], discount=0.9).solve().values,
        atol=2e-6,
    )


def test_functions_are_walked_through_as_far_as_they_lead():
    def step(state, action):
        return [(1.0, state + 1, -1.0)] if state < 5 else None

    mdp = cr.MDP.from_function(step, [0], ["on"])
    assert mdp.num_states == 6
    assert mdp.solve()[0] == -5
    with pytest.raises(ValueError, match="state 0, action 'on' lead to 1, which is not listed"):
        cr.MDP.from_function(step, [0], ["on"], explore=False)
    with pytest.raises(ValueError, match=r"wanted outcomes \(probability, next state, reward\), got 3"):
        cr.MDP.from_function(lambda s, a: [3], [0], ["on"])
    with pytest.raises(ValueError, match=r"state 0, action 'on': probabilities sum to 0\.5"):
        cr.MDP.from_function(lambda s, a: [(0.5, 0, 0.0)], [0], ["on"])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda m: cr.MDP([[[1.0]]], [[0.0]], states=("a", "b")), "2 names for 1 states"),
        (lambda m: cr.MDP(np.ones((2, 1, 2)) / 2, np.zeros((2, 1)), states=("a", "a")), "state 'a' is there twice"),
        (lambda m: cr.MDP([[[1.0]]], [[0.0]], initial=[0.5]), "sum of 0.5"),
        (lambda m: m.solve(tolerance=0), "tolerance is 0"),
        (lambda m: m.solve(max_iterations=0), "max_iterations is 0"),
        (lambda m: m.solve(start=np.zeros(2)), r"start has shape \(2,\)"),
        (lambda m: m.solve(start=np.array([0, np.nan, 0])), "start of state 'broken' is not finite"),
        (lambda m: m.solve()["hot"], "no state is called 'hot'; there are 'cool'"),
        (lambda m: m.replace(states=()), "cannot replace 'states'"),
        (lambda m: m.evaluate([0]), r"policy has shape \(1,\)"),
        (lambda m: m.evaluate([0, 0, 7]), "takes action 7 in state 'warm', which is not feasible"),
        (lambda m: m.evaluate(np.full((3, 2), 0.2)), "in state 'cool' sum to 0.4"),
        (lambda m: m.evaluate({"cool": "slow"}), "says nothing about state 'warm'"),
        (lambda m: m.evaluate({"cool": "slow", "warm": "stop"}), "unknown action 'stop' in state 'warm'"),
        (lambda m: m.simulate(jax.random.key(0), [0, 0, 0], 0), "length is 0"),
        (lambda m: cr.MDP.random(jax.random.key(0), 3, 2).occupancy(np.zeros(3, int)), "where does it start"),
        (lambda m: m.fit([("cool", "slow", 1.0, "broken")]), "from 'cool' under 'slow' to 'broken'"),
        (lambda m: m.fit([("cool", "slow", 1.0)]), "step 0 is"),
        (lambda m: m.fit([("cool", "slow", 1.0, "cool")], smoothing=-1), "smoothing is -1"),
        (lambda m: m.fit([]), "no steps"),
        (lambda m: m.posterior(jax.random.key(0), [("cool", "slow", 1.0, "cool")], prior=0), "prior is 0"),
        (lambda m: cr.MDP.from_graph(nx.DiGraph([(0, 0)])), "no actions"),
        (lambda m: cr.MDP.from_sparse([], np.zeros(1)), "no matrices"),
        (lambda m: cr.MDP.from_sparse(sparse.eye_array(2), np.zeros(2)), "num_actions"),
        (lambda m: cr.MDP.from_sparse([sparse.eye_array(2), sparse.eye_array(3)], np.zeros(2)), "action 1 has shape"),
        (lambda m: cr.PolicyIteration("exact"), "evaluation is 'exact'"),
        (lambda m: cr.ModifiedPolicyIteration(-1), "sweeps is -1; wanted at least 0"),
        (lambda m: cr.ValueIteration(blocks=2.5), r"blocks is 2\.5; wanted a whole number"),
        (lambda m: cr.AndersonAcceleration(0), "memory is 0; wanted at least 1"),
    ],
)
def test_what_is_wrong_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make(cr.MDP.from_graph(machine(), discount=0.9))


def test_policies_as_chains_and_visits():
    mdp = cr.MDP.from_graph(machine(), discount=0.9)
    policy = {"cool": "fast", "warm": {"slow": 1.0}}
    chain = mdp.chain(policy)
    assert chain.states == mdp.states
    np.testing.assert_allclose(chain.transition[0], [0.5, 0, 0.5])
    assert chain.transition[1, 1] == 1
    visits = mdp.occupancy(policy)
    assert visits.sum() == pytest.approx(1 / (1 - 0.9))  # it never breaks
    assert (visits * mdp.transitions.rewards).sum() == pytest.approx(mdp.evaluate(policy)["cool"], abs=1e-9)
    np.testing.assert_allclose(mdp.occupancy(policy, start="warm").sum(), 10)
    stationary = mdp.replace(discount=0.5).chain(mdp.solve().policy)
    assert isinstance(stationary, cr.MarkovChain)


def test_walks_have_the_right_frequencies():
    mdp = cr.MDP.from_graph(machine(), discount=0.9)
    policy = np.array([[0.3, 0.7], [0, 0], [0.9, 0.1]])
    walks = mdp.simulate(jax.random.key(0), policy, 40, num_samples=4000)
    assert repr(walks) == "Trajectories(4000 walks, 40 steps)"
    actions, states = np.asarray(walks.actions), np.asarray(walks.states)
    assert ((actions >= 0) == (states[:, :-1] != 1)).all()
    assert (np.asarray(walks.rewards)[actions < 0] == 0).all()
    wanted = mdp.evaluate(policy)
    found = walks.returns(0.9)
    # what 40 steps leave is 0.9⁴⁰ of at most 20
    assert abs(found.mean() - wanted["cool"]) < 4 * found.std() / np.sqrt(4000) + 0.9**40 * 20
    warm = states[:, :-1] == 2
    share = (actions[warm] == 1).mean()
    assert abs(share - 0.1) < 4 * np.sqrt(0.09 / warm.sum())
    assert walks.labels(0)[0] == "cool"
    assert len(walks.labels(0)) == walks.lengths[0] + 1


def test_learning_from_walks():
    mdp = cr.MDP.from_graph(machine(), discount=0.9)
    policy = np.array([[0.5, 0.5], [0, 0], [0.5, 0.5]])
    walks = mdp.simulate(jax.random.key(1), policy, 50, num_samples=2000)
    fit = mdp.fit(walks)
    assert fit.status is cr.Status.CONVERGED
    fewest = min(
        ((np.asarray(walks.states)[:, :-1] == s) & (np.asarray(walks.actions) == a)).sum() for s, a in [(0, 1), (2, 0)]
    )
    learnt = fit.model.transitions.spread_out().probabilities
    np.testing.assert_allclose(learnt, mdp.transitions.spread_out().probabilities, atol=4 * 0.5 / np.sqrt(fewest))
    np.testing.assert_allclose(
        np.asarray(fit.model.transitions.rewards)[mdp.transitions.mask],
        np.asarray(mdp.transitions.rewards)[mdp.transitions.mask],
        atol=1e-6,
    )
    assert fit.model.solve().policy["warm"] == "slow"

    draws = mdp.posterior(jax.random.key(2), walks, num_draws=200)
    values = jax.vmap(lambda m: m.solve(tolerance=1e-2).values)(draws)
    assert values.shape == (200, 3)
    truth = mdp.solve()["cool"]
    spread = float(values[:, 0].std())
    assert 0 < spread < 1
    assert abs(float(values[:, 0].mean()) - truth) < 5 * spread + 1e-2
    few = mdp.posterior(jax.random.key(2), [("cool", "slow", 1.0, "cool")], num_draws=2000)
    fast = np.asarray(few.transitions.probabilities)[:, 0, 1, 0]  # never tried, so uniform: variance 1/12
    assert abs(fast.mean() - 0.5) < 4 / np.sqrt(12 * 2000)


def test_a_process_out_of_steps():
    steps = [[("in", "wait", 1.0, "in"), ("in", "wait", 0.0, "out")], [("in", "go", 0.5, "out")]]
    mdp = cr.MDP.from_trajectories(steps, discount=0.5)
    assert mdp.states == ("in", "out")
    assert mdp.actions == ("wait", "go")
    solution = mdp.solve()
    assert solution["in"] == pytest.approx(0.5 / (1 - 0.25))
    assert solution.policy["out"] is None
    with pytest.raises(ValueError, match="no steps"):
        cr.MDP.from_trajectories([])


def test_saved_and_loaded(tmp_path):
    mdp = cr.MDP.from_graph(machine(), discount=0.9)
    solution = mdp.solve()
    for thing in (mdp, solution, solution.policy):
        cr.save(tmp_path / "thing.npz", thing)
        again = cr.load(tmp_path / "thing.npz")
        assert jax.tree.structure(again) == jax.tree.structure(thing)
        for one, other in zip(jax.tree.leaves(again), jax.tree.leaves(thing), strict=True):
            np.testing.assert_array_equal(one, other)
    assert again["cool"] == "fast"


def test_float64_keeps_its_digits_without_asking():
    third = np.array([[[1 / 3, 2 / 3], [1.0, 0.0]], [[0.5, 0.5], [0.0, 1.0]]])
    mdp = cr.MDP(third, np.zeros((2, 2)), discount=0.9)
    assert mdp.transitions.probabilities.dtype == np.float64
    assert mdp.transitions.probabilities is third or np.shares_memory(mdp.transitions.probabilities, third)
    on_device = cr.MDP(jnp.asarray(third, jnp.float32), jnp.zeros((2, 2)), discount=0.9)
    assert on_device.transitions.probabilities.dtype == jnp.float32
    assert on_device.solve().status is cr.SolveStatus.CERTIFIED


def test_policies_read_by_name():
    stochastic = cr.Policy(np.array([[0.25, 0.75], [0.0, 0.0]]), states=("up", "down"), actions=("l", "r"))
    assert stochastic["up"] == {"l": 0.25, "r": 0.75}
    assert stochastic["down"] is None
    assert not stochastic.is_deterministic
    with pytest.raises(ValueError, match="no one action"):
        _ = stochastic.labels
    steps = cr.Policy(np.array([[0, 1], [1, -1]]))
    assert steps[1] == [1, None]
    assert repr(steps) == "Policy(2 states, deterministic, 2 steps)"
    np.testing.assert_array_equal(cr.Policy(np.array([1, -1])).probabilities(2), [[0, 1], [0, 0]])


def test_progress_is_told(capsys):
    cr.MDP.from_graph(machine(), discount=0.9).solve(progress=True)
    assert "solving [" in capsys.readouterr().err


def test_draws_of_a_process_with_shared_rows_have_rows_of_their_own():
    # eight pairs share two distributions, so the process keeps each once; what is learned about one pair is its own
    probs = np.zeros((4, 2, 4))
    probs[:, 0], probs[:, 1] = [0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]
    mdp = cr.MDP(probs, np.arange(8.0).reshape(4, 2), discount=0.9)
    assert mdp.transitions.rows is not None
    draws = mdp.posterior(jax.random.key(0), [(0, 0, 0.0, 1)] * 50, num_draws=40)
    found = np.asarray(draws.transitions.probabilities)
    assert draws.transitions.successors is None
    assert found.shape == (40, 4, 2, 4)
    assert jax.vmap(lambda m: m.solve().values)(draws).shape == (40, 4)
    assert found[:, 0, 0, 1].mean() > 0.9
    assert abs(found[:, 1, 0, 1].mean() - 0.5) < 0.25  # five standard deviations of a mean of 40 uniform numbers
