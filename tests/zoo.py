"""One small example of every model: what the contract tests and the tests of learning run over.

A later model adds a line to EXAMPLES. `data` is one sequence, with a hole in it where the model knows holes; data with
a `time` axis of any length must be accepted, since tests cut pieces off it.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import networkx as nx
import numpy as np

import chainrule as cr

# Major earthquakes per year, 1900–2006 (Zucchini and MacDonald 2009, table 1.1).
# fmt: off
EARTHQUAKES = np.array([
    13, 14, 8, 10, 16, 26, 32, 27, 18, 32, 36, 24, 22, 23, 22, 18, 25, 21, 21, 14, 8, 11, 14, 23, 18, 17, 19,
    20, 22, 19, 13, 26, 13, 14, 22, 24, 21, 22, 26, 21, 23, 24, 27, 41, 31, 27, 35, 26, 28, 36, 39, 21, 17, 22,
    17, 19, 15, 34, 10, 15, 22, 18, 15, 20, 15, 22, 19, 16, 30, 27, 29, 23, 20, 16, 21, 21, 25, 16, 18, 15, 18,
    14, 10, 15, 8, 15, 6, 11, 8, 7, 18, 16, 13, 12, 13, 20, 15, 16, 12, 18, 15, 16, 13, 15, 16, 11, 11,
])
# fmt: on

_rng = np.random.default_rng(7)
_NUMBERS = np.array([-1.0, -0.6, 1.8, np.nan, 2.4, 1.7, -0.9, -1.3, 2.2, 1.9, -0.4, -1.1])
_VECTORS = np.stack([_NUMBERS + 0.3 * _rng.normal(size=12), 0.5 * _NUMBERS + _rng.normal(size=12)], axis=1)
_VECTORS[6, 0] = np.nan  # a vector with one feature missing; step 3 has neither
_COUNTS = np.array([2, 1, 9, 7, np.nan, 8, 0, 3, 11, 6, 2, 1.0])
_FLAGS = np.array([0, 0, 1, 1, np.nan, 1, 0, 0, 1, 0, 0, 0.0])
_SYMBOLS = np.array([0, 0, 2, 1, np.nan, 2, 0, 1, 2, 2, 0, 0.0])

INITIAL, TRANSITION = [0.7, 0.3], [[0.8, 0.2], [0.3, 0.7]]
_CENTRES = [[-1.0, -0.5], [2.0, 1.0]]


def hmm(emission, **kwargs) -> cr.HMM:
    return cr.HMM(INITIAL, TRANSITION, emission, **kwargs)


class Example(NamedTuple):
    name: str
    make: Callable[[], Any]
    data: np.ndarray


_E = cr.emissions
_FULL = [[[1.0, 0.3], [0.3, 1.0]], [[0.8, -0.2], [-0.2, 1.5]]]

HMMS = [
    Example("categorical", lambda: hmm(_E.Categorical([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]])), _SYMBOLS),
    Example("bernoulli", lambda: hmm(_E.Bernoulli([0.2, 0.9])), _FLAGS),
    Example("poisson", lambda: hmm(_E.Poisson([2.0, 8.0]), states=("calm", "busy")), _COUNTS),
    Example("normal", lambda: hmm(_E.Normal([-1.0, 2.0], [1.0, 0.5])), _NUMBERS),
    Example("normal diagonal", lambda: hmm(_E.Normal(_CENTRES, [[1.0, 0.7], [0.5, 1.2]])), _VECTORS),
    Example("normal spherical", lambda: hmm(_E.Normal(_CENTRES, [1.0, 0.6])), _VECTORS),
    Example("normal full", lambda: hmm(_E.MultivariateNormal(_CENTRES, _FULL)), _VECTORS),
    Example("normal tied", lambda: hmm(_E.MultivariateNormal(_CENTRES, _FULL[0])), _VECTORS),
    Example(
        "mixture",
        lambda: hmm(_E.Mixture(_E.Normal([-1.5, -0.5, 1.5, 2.5], np.ones(4)), [[0.4, 0.6], [0.5, 0.5]])),
        _NUMBERS,
    ),
    Example(
        "product",
        lambda: hmm(_E.Product(_E.Normal([-1.0, 2.0], [1.0, 1.0]), _E.Poisson([2.0, 8.0]))),
        np.stack([_NUMBERS, _COUNTS], axis=1),
    ),
]

EXAMPLES = [
    *HMMS,
    Example(
        "markov chain", lambda: cr.MarkovChain(INITIAL, TRANSITION), np.array([0, 0, 1, 1, 0, 1, 1, 1, 0, 0, 0, 1])
    ),
]


# Conditional random fields: `data` is one sentence of vectors
SENTENCE = np.random.default_rng(9).normal(size=(3, 2)).astype(np.float32)
CRF_LABELS = ("D", "N", "V")


class _Table(eqx.Module):
    table: Any

    def __call__(self, x, start):
        return x @ self.table


def _of_array(x, y_prev, y, i):
    return jnp.where(y_prev == y, x[i, 0], 0)


def _linear_chain_crf() -> cr.LinearChainCRF:
    features = [cr.dense(), cr.feature_function(_of_array), cr.neural_feature(_Table(jnp.ones((2, 3))))]
    crf = cr.LinearChainCRF(CRF_LABELS, features, transitions=nx.DiGraph([*zip("DDNNNVV", "NVDNVDN", strict=True)]))
    return crf.fit([SENTENCE], [["N", "D", "V"]], method=cr.LBFGS(max_iterations=1)).model


def _semi_markov_crf() -> cr.SemiMarkovCRF:
    crf = cr.SemiMarkovCRF(CRF_LABELS, [cr.dense()], max_length=2)
    return crf.fit([SENTENCE], [[(0, 2, "N"), (2, 3, "V")]], method=cr.LBFGS(max_iterations=1)).model


TAGGERS = [
    Example("linear-chain crf", cache(_linear_chain_crf), SENTENCE),
    Example("semi-markov crf", cache(_semi_markov_crf), SENTENCE),
]


def boltzmann_machine() -> cr.BoltzmannMachine:
    """Four spins on a square with a diagonal, one of them hidden."""
    graph = nx.Graph()
    graph.add_nodes_from([("n", {"bias": 0.3}), ("e", {"bias": -0.2}), ("s", {"hidden": True}), ("w", {"bias": 0.1})])
    pairs = (("n", "e", 0.8), ("e", "s", -0.5), ("s", "w", 0.7), ("w", "n", 0.4), ("n", "s", -0.6))
    graph.add_weighted_edges_from(pairs)
    return cr.BoltzmannMachine.from_graph(graph, states=(-1, 1))


def random_field() -> cr.MarkovRandomField:
    """A table of three variables, one of which has three states and one of which is hidden."""
    tables = [(("n", "e", "s"), _numbers(2, 3, 2)), (("s", "w"), [[0.0, 1.0], [0.5, -np.inf]])]
    graph = cr.FactorGraph({"n": 2, "e": 3, "s": 2, "w": 2}, tables)
    return cr.MarkovRandomField.from_factor_graph(graph, hidden="s")


# what is a distribution over some nodes of a graph, with rows of data
ON_GRAPHS = [
    Example("boltzmann machine", boltzmann_machine, np.array([[1, -1, 1], [-1, -1, 1]])),
    Example("random field", random_field, np.array([[0, 2, 1], [1, 0, 0]])),
]


def decision_process() -> cr.MDP:
    """Invest or wait while times are calm or rough, until it is over."""
    return cr.MDP(
        [[[0.7, 0.3, 0.0], [0.4, 0.4, 0.2]], [[0.5, 0.5, 0.0], [0.1, 0.5, 0.4]], [[0.0, 0.0, 1.0]] * 2],
        [[0.0, 1.0], [-0.5, 0.5], [0.0, 0.0]],
        terminal=[False, False, True],
        discount=0.9,
        states=("calm", "rough", "over"),
        actions=("wait", "invest"),
    )


def _numbers(*shape):
    return np.random.default_rng(3).normal(size=shape)


_BITS = np.random.default_rng(5).integers(0, 2, (6, 3))

_SIGNS = 2 * _BITS - 1

# Boltzmann machines and associative memories: `data` are rows of visible values
MACHINES = [
    Example("rbm", lambda: cr.RBM(_numbers(3, 2), _numbers(3), _numbers(2)), _BITS),
    Example("softmax rbm", lambda: cr.RBM(_numbers(9, 2), visible=cr.units.Categorical(3)), _BITS + _BITS[::-1]),
    Example("gaussian rbm", lambda: cr.RBM(_numbers(3, 2), visible=cr.units.Gaussian([0.1, 0.0, 0.3])), _numbers(6, 3)),
    Example("rectified rbm", lambda: cr.RBM(_numbers(3, 2), hidden=cr.units.Rectified()), _BITS),
    Example(
        "label rbm", lambda: cr.ClassificationRBM(cr.RBM(_numbers(3, 2)), _numbers(2, 2), labels=("a", "b")), _BITS
    ),
    Example("belief net", lambda: cr.DeepBeliefNetwork([cr.RBM(_numbers(3, 2)), cr.RBM(_numbers(2, 2))]), _BITS),
    Example("deep machine", lambda: cr.DeepBoltzmannMachine([_numbers(3, 2), _numbers(2, 2)]), _BITS),
    Example("hopfield network", lambda: cr.Hopfield.from_patterns(_SIGNS[:2]), _SIGNS),
    Example("dense memory", lambda: cr.DenseMemory(_SIGNS[:4]), _SIGNS),
    Example("exponential memory", lambda: cr.DenseMemory(_SIGNS[:4], cr.hopfield.Exponential()), _SIGNS),
    Example("continuous memory", lambda: cr.ContinuousHopfield(_numbers(4, 3)), _numbers(6, 3)),
]


class Bowl(eqx.Module):
    """An energy with two arrays of parameters, as a user writes one."""

    centre: jax.Array
    depth: jax.Array

    def __call__(self, x):
        return self.depth * ((x - self.centre) ** 2).sum()


class Logits(eqx.Module):
    """Two logits of three numbers."""

    weights: jax.Array

    def __call__(self, x):
        return self.weights @ x


# Energies that are somebody's callable: loading them takes a model of the same kind
ENERGIES = [
    Example("energy", lambda: cr.EnergyModel(Bowl(jnp.ones(3), jnp.ones(())), 3), _numbers(6, 3)),
    Example("joint energy", lambda: cr.JointEnergyModel(Logits(jnp.asarray(_numbers(2, 3), float)), 3), _numbers(6, 3)),
]


def recommender() -> tuple[cr.Recommender, cr.Ratings]:
    """Three users, two films, two grades."""
    model = cr.Recommender(
        _numbers(2, 2, 3), _numbers(2, 3), _numbers(2, 2), _numbers(3), scale=(1, 2), items=("a", "b")
    )
    return model, cr.Ratings([[1, np.nan], [2, 2], [np.nan, 1]], (1, 2), items=("a", "b"))


def score_of_rows(machine, v):
    """What a machine says of rows of data: log-probabilities where they are defined, of labels, a bound of them, or −E."""
    if isinstance(machine, cr.Hopfield | cr.DenseMemory | cr.ContinuousHopfield | cr.EnergyModel | cr.JointEnergyModel):
        return -machine.energy(v)
    if isinstance(machine, cr.ClassificationRBM):
        return machine.label_log_probs(v)[:, 0]
    if isinstance(machine, cr.DeepBeliefNetwork):
        return machine.features(v)[:, 0]
    return machine.log_prob_bound(v) if isinstance(machine, cr.DeepBoltzmannMachine) else machine.log_prob(v)
