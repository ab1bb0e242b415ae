"""What every model and every engine promises: jit, vmap, grad, one trace, frozen, short repr, saved and loaded.

A later model adds a line to `zoo.EXAMPLES`, a later engine a line to ENGINES.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zoo

import chainrule as cr
from chainrule.inference import chain as chain_engine
from chainrule.inference import compound, compound_paths, decoding, parallel, rows
from chainrule.inference.second_order import Triples
from chainrule.inference.semi_markov import Segments

MODELS = pytest.mark.parametrize("example", zoo.EXAMPLES, ids=lambda e: e.name)


def in_rows(chain):
    """Two rows: the chain, and the same backwards."""
    node = jnp.stack([chain.node, chain.node[::-1]], axis=-1)
    start = np.arange(len(node))[:, None].repeat(2, axis=1) == 0
    return chain.initial, chain.pair, node, start, np.ones((len(node), 2), np.float32)


def as_triples(chain):
    """The chain as one of second order, whose triples repel equal neighbours."""
    _, pair, node, start, _ = in_rows(chain)
    triple = -jnp.broadcast_to(jnp.eye(3)[:, :, None], (3, 3, 4))
    return Triples(3), compound.Steps({"pair": pair, "triple": triple}, {"node": node}, {}, start)


def as_segments(chain):
    """The chain as one of segments of up to two steps."""
    _, pair, node, start, _ = in_rows(chain)
    left = np.minimum(np.arange(len(node), dtype=np.int32)[::-1], 1)[:, None].repeat(2, axis=1)
    weights = {"pair": pair, "length": jnp.zeros((2, 3))}
    return Segments(3, 2), compound.Steps(weights, {"node": node}, {"left": left}, start)


def compounded(form, function):
    """What a function says of a chain of compound states."""
    return lambda chain: function(*form(chain))


def total(kind, steps):
    return compound.total(kind, *steps, np.ones(steps.start.shape, np.float32))


# A chain in, arrays out; whether the answer is a smooth function of the potentials.
ENGINES = [
    ("log_partition", chain_engine.log_partition, True),
    ("marginals", chain_engine.marginals, False),
    ("pair_marginals", chain_engine.pair_marginals, False),
    ("filter", chain_engine.filter, False),
    ("entropy", chain_engine.entropy, False),
    ("sample", partial(chain_engine.sample, jax.random.key(0), num_samples=3), False),
    ("viterbi", decoding.viterbi, False),
    ("k_best", partial(decoding.k_best, k=2), False),
    ("parallel log_partition", parallel.log_partition, True),
    ("parallel marginals", parallel.marginals, False),
    ("rows total", lambda chain: rows.total(True, *in_rows(chain)), True),
    ("rows smooth", lambda chain: rows.smooth(*in_rows(chain), log=True).marginals, False),
    ("rows filter", lambda chain: jnp.exp(rows.log_filter(*in_rows(chain)[:-1], log=True)[0]), False),
    ("rows viterbi", lambda chain: decoding.best_states(*in_rows(chain)[:-1]), False),
    ("second order total", compounded(as_triples, total), True),
    ("second order viterbi", compounded(as_triples, compound_paths.best_states), False),
    ("segments total", compounded(as_segments, total), True),
    ("segments viterbi", compounded(as_segments, compound_paths.best_states), False),
]


def log_prob(model, x):
    return model.log_prob(x)


def same(a, b):
    leaves, others = jax.tree.leaves(a), jax.tree.leaves(b)
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for leaf, other in zip(leaves, others, strict=True):
        assert leaf.dtype == other.dtype
        np.testing.assert_array_equal(leaf, other)


def arrays(data):
    return data.astype(np.int32 if data.dtype.kind == "i" else np.float32)


def values_and_slopes(function):
    """One program that asks of several data at once, and for the gradient by the model; and a list of its traces."""
    traces = []

    def counted(model, x):
        traces.append(None)
        return function(model, x)

    return jax.jit(jax.vmap(jax.value_and_grad(counted, allow_int=True), in_axes=(None, 0))), traces


def finite_and_not_all_zero(gradient):
    slopes = [np.asarray(leaf) for leaf in jax.tree.leaves(gradient) if leaf.dtype.kind == "f"]
    assert all(np.isfinite(leaf).all() for leaf in slopes)
    assert any(leaf.any() for leaf in slopes)


# Models


@MODELS
def test_under_jit_vmap_and_grad(example):
    model, x = example.make(), arrays(example.data)
    wanted = float(model.log_prob(example.data))
    assert np.isfinite(wanted)

    backwards = float(model.log_prob(example.data[::-1].copy()))
    compiled, traces = values_and_slopes(log_prob)
    each, gradient = compiled(model, np.stack([x, x[::-1]]))
    np.testing.assert_allclose(each, [wanted, backwards], rtol=1e-5)
    assert jax.tree.structure(gradient) == jax.tree.structure(model)
    finite_and_not_all_zero(gradient)
    compiled(example.make(), np.stack([x[::-1], x]))
    compiled(jax.tree.map(lambda leaf: leaf, model), np.stack([x, x]))
    assert len(traces) == 1  # new values, even a new model, compile nothing


@MODELS
def test_asking_again_compiles_nothing(example):
    model, x = example.make(), example.data
    answers = [model.log_prob(x), model.log_prob([x, x[:5], x[:1]])]
    before = _compiled()
    answers += [example.make().log_prob(x[::-1].copy()), model.log_prob([x[::-1].copy(), x[-5:], x[-1:]])]
    assert _compiled() == before > 0
    assert np.isfinite(np.concatenate([np.ravel(a) for a in answers])).all()


def _compiled() -> int:
    """How many programs the modules that answer queries hold."""
    from chainrule.models import hmm_engine, markov_chain

    functions = (f for module in (hmm_engine, markov_chain) for f in vars(module).values())
    return sum(f._cache_size() for f in functions if hasattr(f, "_cache_size"))


@MODELS
def test_ragged_data_are_normal_data(example):
    model, x = example.make(), example.data
    pieces = [x, x[:5], x[:1]]
    together = model.log_prob(pieces)
    assert together.shape == (3,)
    np.testing.assert_allclose(together[0], model.log_prob(x), rtol=1e-5)
    np.testing.assert_allclose(model.log_prob(np.stack([x, x])), np.repeat(together[:1], 2), rtol=1e-6)
    np.testing.assert_allclose(model.log_prob(cr.Sequences.pack(pieces)), together, rtol=1e-6)


@MODELS
def test_repr_is_short_and_free_of_arrays(example):
    text = repr(example.make())
    assert len(text) < 100
    assert text.startswith(type(example.make()).__name__)
    assert "2 states" in text
    assert not any(word in text for word in ("f32", "Array", "[", "\n"))


@MODELS
def test_models_are_frozen_pytrees_of_arrays(example):
    model = example.make()
    with pytest.raises(AttributeError):
        model.transition = model.transition
    leaves, structure = jax.tree.flatten(model)
    assert all(isinstance(leaf, jax.Array) for leaf in leaves)
    again = jax.tree.unflatten(structure, leaves)
    assert type(again) is type(model)
    assert again.states == model.states
    same(again, model)
    assert hash(structure) == hash(jax.tree.structure(example.make()))


@MODELS
def test_saved_and_loaded(example, tmp_path):
    pytest.importorskip("chainrule.io")
    model, path = example.make(), tmp_path / "model.npz"
    cr.save(path, model)
    again = cr.load(path)
    assert type(again) is type(model)
    assert again.states == model.states
    same(again, model)
    assert again.log_prob(example.data) == model.log_prob(example.data)


@MODELS
def test_graph_and_back(example):
    model = example.make()
    graph = model.graph()
    assert list(graph) == list(model.states)
    again = cr.MarkovChain.from_graph(graph)
    np.testing.assert_allclose(again.transition, model.transition, rtol=1e-6)
    np.testing.assert_allclose(again.initial, model.initial, rtol=1e-6)


@MODELS
def test_samples_are_reproducible_and_scored(example):
    model, key = example.make(), jax.random.key(2)
    first, second = model.sample(key, 12), model.sample(key, 12)
    same(first, second)
    x = first if isinstance(first, jax.Array) else first[1]
    assert np.isfinite(model.log_prob(x))


@pytest.mark.parametrize("example", [e for e in zoo.HMMS if e.name != "normal tied"], ids=lambda e: e.name)
def test_the_order_of_states_changes_nothing(example):
    model, x = example.make(), example.data
    turned = model.permute([1, 0])
    assert float(turned.log_prob(x)) == pytest.approx(float(model.log_prob(x)), rel=1e-5)
    np.testing.assert_array_equal(turned.transition, np.asarray(model.transition)[::-1, ::-1])
    same(turned.permute([1, 0]), model)


# Engines


def a_chain(seed=0, time=5):
    rng = np.random.default_rng(seed)
    pair = rng.normal(size=(3, 3))
    pair[0, 2] = -np.inf
    return cr.Chain(*(a.astype(np.float32) for a in (rng.normal(size=3), pair, rng.normal(size=(time, 3)))))


@pytest.mark.parametrize(("name", "engine", "smooth"), ENGINES, ids=[e[0] for e in ENGINES])
def test_engine_under_jit_vmap_and_grad(name, engine, smooth):
    chains = [a_chain(0), a_chain(1)]
    traces = []

    @jax.jit
    def compiled(chain):
        traces.append(None)
        return engine(chain)

    wanted = [compiled(chain) for chain in chains]
    assert len(traces) == 1
    assert not any(np.isnan(leaf).any() for leaf in jax.tree.leaves(wanted))
    if name == "sample":  # a batch of draws from one key is one more draw, not the same ones
        return
    batch = jax.tree.map(lambda *leaves: np.stack(leaves), *chains)
    found = jax.jit(jax.vmap(jax.value_and_grad(engine) if smooth else engine))(batch)
    if smooth:
        found, gradient = found
        finite_and_not_all_zero(gradient)
        assert not np.asarray(gradient.pair)[:, 0, 2].any()
    for n in range(2):
        for leaf, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted[n]), strict=True):
            np.testing.assert_allclose(leaf[n], other, atol=1e-5)


def test_forms_and_results_have_short_reprs():
    model, x = zoo.HMMS[2].make(), zoo.HMMS[2].data
    things = [model.posterior(x), model.filter(x), model.viterbi(x), a_chain(), cr.Sequences.pack([x, x[:3]])]
    for thing in things:
        assert len(repr(thing)) < 100
        assert "Array" not in repr(thing)
        assert "[" not in repr(thing)
    assert repr(model) == "HMM(2 states, Poisson)"


def test_entropy_has_a_gradient():
    finite_and_not_all_zero(jax.grad(chain_engine.entropy)(a_chain()))


# Decision processes: what models of sequences promise, as far as it has a meaning here


def test_a_decision_process_keeps_the_contracts(tmp_path):
    mdp = zoo.decision_process()
    wanted = mdp.solve()
    rewards = np.stack([np.asarray(mdp.transitions.rewards), -np.asarray(mdp.transitions.rewards)])
    compiled, traces = values_and_slopes(lambda mdp, r: mdp.replace(rewards=r).solve(tolerance=1e-3).values.sum())
    each, slope = compiled(mdp, rewards)
    np.testing.assert_allclose(each[0], np.sum(wanted.values), atol=6e-3)  # three states
    finite_and_not_all_zero(slope)
    compiled(mdp, rewards[::-1])
    assert len(traces) == 1  # new values compile nothing

    cr.save(tmp_path / "mdp.npz", mdp)
    again = cr.load(tmp_path / "mdp.npz")
    assert again.states == mdp.states
    same(again, mdp)
    with pytest.raises(AttributeError):
        mdp.transitions = mdp.transitions
    for thing in (mdp, wanted, wanted.policy, mdp.transitions, mdp.evaluate(wanted.policy)):
        assert len(repr(thing)) < 100
        assert "[" not in repr(thing)
    assert list(mdp.graph()) == list(mdp.states)
    np.testing.assert_allclose(cr.MDP.from_graph(mdp.graph(), discount=0.9).solve().values, wanted.values, atol=2e-6)
    walks = [mdp.simulate(jax.random.key(0), wanted.policy, 5, num_samples=3, start="calm") for _ in range(2)]
    same(*walks)


# Conditional random fields: sentences and labels instead of sequences

TAGGERS = pytest.mark.parametrize("example", zoo.TAGGERS, ids=lambda e: e.name)


def log_prob_of_labels(model, x):
    return model.log_prob(x, ["N", "D", "V"] if isinstance(model, cr.LinearChainCRF) else [(0, 1, "N"), (1, 3, "V")])


def questions(model, x):
    """All that can be asked of a sentence, in arrays."""
    posterior, best, drawn = model.posterior(x), model.viterbi(x), model.sample(jax.random.key(0), x, 2)
    k_best, known = model.k_best(x, 2), model.log_partition(x, known=[None, "N", None])
    found = [posterior.marginals, posterior.transitions, best.states, best.log_prob, drawn.log_prob, k_best.states]
    found += [k_best.log_prob, known, model.entropy(x)]
    return found + ([model.pair_posterior(x)] if isinstance(model, cr.LinearChainCRF) else [])


def no_questions(model, x):
    """None but the probability and its gradient; that all others can be traced is seen without compiling them."""
    return []


@pytest.mark.parametrize("ask", [no_questions, pytest.param(questions, marks=pytest.mark.slow)], ids=["one", "all"])
@TAGGERS
def test_taggers_under_jit_vmap_and_grad(example, ask):
    model, x = example.make(), example.data
    traces = []

    @jax.jit
    @jax.vmap
    def compiled(model, x):
        traces.append(None)
        value, slopes = jax.value_and_grad(log_prob_of_labels, argnums=(0, 1), allow_int=True)(model, x)
        return [value, *ask(model, x)], slopes

    models, sentences = [model, scaled(model, 2)], [x, x[::-1].copy()]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *models)
    shapes = jax.eval_shape(jax.vmap(questions), stacked, np.stack(sentences))  # nothing has to look at values
    assert {one.shape[0] for one in shapes} == {2}
    found, gradient = compiled(stacked, np.stack(sentences))
    close = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
    for n in range(2):
        wanted = [log_prob_of_labels(models[n], sentences[n]), *ask(models[n], sentences[n])]
        assert all(isinstance(one, np.ndarray | np.generic) for one in wanted)
        jax.tree.map(lambda got, one, n=n: close(got[n], one), found, wanted)
    slopes = [np.asarray(leaf) for leaf in jax.tree.leaves(gradient) if leaf.dtype.kind == "f"]
    assert all(np.isfinite(leaf).all() for leaf in slopes)
    assert slopes[-1].shape == (2, *x.shape)  # by the sentence, too
    assert slopes[-1].any()
    compiled(scaled(stacked, 0.5), np.stack(sentences[::-1]))
    assert len(traces) == 1  # new values compile nothing


def scaled(model, factor):
    def scale(leaf):
        leaf = np.asarray(leaf)
        return leaf * leaf.dtype.type(factor) if leaf.dtype.kind == "f" else leaf

    return jax.tree.map(scale, model)


@TAGGERS
def test_taggers_are_frozen_short_and_saved(example, tmp_path):
    model, path = example.make(), tmp_path / "model.npz"
    things = [model, model.posterior(example.data), model.viterbi(example.data)]
    assert all(len(repr(thing)) < 130 and "Array" not in repr(thing) for thing in things)
    leaves, structure = jax.tree.flatten(model)
    same(jax.tree.unflatten(structure, leaves), model)
    with pytest.raises(AttributeError):
        model.first = model.first
    cr.save(path, model)
    again = cr.load(path, like=model)
    assert again.labels == model.labels
    same(again, model)
    assert again.log_partition(example.data) == model.log_partition(example.data)


# Boltzmann machines: rows of data instead of sequences

MACHINES = pytest.mark.parametrize("example", [*zoo.MACHINES, *zoo.ENERGIES], ids=lambda e: e.name)


@MACHINES
def test_machines_under_jit_vmap_and_grad(example):
    machine, v = example.make(), arrays(example.data)
    wanted = np.asarray(zoo.score_of_rows(machine, example.data), float)
    assert wanted.shape == (6,)
    compiled, traces = values_and_slopes(lambda machine, row: zoo.score_of_rows(machine, row)[0])
    each, gradient = compiled(machine, v[:, None])
    np.testing.assert_allclose(each, wanted, rtol=2e-5)
    finite_and_not_all_zero(gradient)
    compiled(scaled(machine, 2), v[::-1, None])
    assert len(traces) == 1


@MACHINES
def test_machines_are_frozen_short_and_saved(example, tmp_path):
    machine, path = example.make(), tmp_path / "machine.npz"
    assert len(repr(machine)) < 100
    assert "[" not in repr(machine)
    leaves, structure = jax.tree.flatten(machine)
    assert all(isinstance(leaf, jax.Array) for leaf in leaves)
    same(jax.tree.unflatten(structure, leaves), machine)
    assert hash(structure) == hash(jax.tree.structure(example.make()))
    name = next(iter(vars(machine)))
    with pytest.raises(AttributeError):
        setattr(machine, name, getattr(machine, name))
    cr.save(path, machine)
    again = cr.load(path, **({"like": example.make()} if example in zoo.ENERGIES else {}))
    assert type(again) is type(machine)
    same(again, machine)
    np.testing.assert_array_equal(zoo.score_of_rows(again, example.data), zoo.score_of_rows(machine, example.data))


def test_a_recommender_keeps_the_contracts(tmp_path):
    """By its parameters: tables of ratings have names, live on the host, and are not traced."""
    model, ratings = zoo.recommender()
    wanted = np.asarray(model.free_energy(ratings))
    compiled, traces = values_and_slopes(lambda model, user: model.free_energy(ratings)[user])
    each, gradient = compiled(model, np.arange(len(wanted), dtype=np.int32))
    np.testing.assert_allclose(each, wanted, rtol=1e-5)
    assert all(np.isfinite(leaf).all() and np.asarray(leaf).any() for leaf in jax.tree.leaves(gradient))
    compiled(scaled(model, 2), np.arange(len(wanted), dtype=np.int32))
    assert len(traces) == 1
    with pytest.raises(AttributeError):
        model.weights = model.weights
    cr.save(tmp_path / "model.npz", model)
    again = cr.load(tmp_path / "model.npz")
    assert (again.items, again.scale) == (model.items, model.scale)
    same(again, model)
    assert len(repr(model)) < 100


# Boltzmann machines on graphs: the same


@pytest.mark.parametrize("example", zoo.ON_GRAPHS, ids=lambda e: e.name)
def test_machines_on_graphs_keep_the_contracts(example, tmp_path):
    machine, x = example.make(), example.data
    wanted = machine.log_prob(x)
    compiled, traces = values_and_slopes(log_prob)
    each, gradient = compiled(machine, x)
    np.testing.assert_allclose(each, wanted, rtol=1e-5)
    finite_and_not_all_zero(gradient)
    compiled(scaled(machine, 2), x[::-1])
    assert len(traces) == 1

    cr.save(tmp_path / "machine.npz", machine)
    again = cr.load(tmp_path / "machine.npz")
    assert type(again) is type(machine)
    assert again.visible == machine.visible
    same(again, machine)
    with pytest.raises(AttributeError):
        machine.hidden = machine.hidden
    parts = (machine.form, machine.mean_field()) if isinstance(machine, cr.BoltzmannMachine) else (machine.factors,)
    for thing in (machine, *parts):
        assert len(repr(thing)) < 100
        assert "[" not in repr(thing)
    other = type(machine).from_factor_graph(machine.factor_graph(), hidden=machine.hidden)
    lower = machine.states[0] < 0 if isinstance(machine, cr.BoltzmannMachine) else False
    np.testing.assert_allclose(other.log_prob((x + 1) // 2 if lower else x), wanted, rtol=1e-5)
    same(*(machine.sample(jax.random.key(0), 5) for _ in range(2)))
