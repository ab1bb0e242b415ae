"""The rivals of the MDP benchmark, each used with care: QuantEcon.py and mdpsolver; see mdp_measure.py.

A function here takes a `Problem` and returns a call without arguments, whose answer is an `Answer`. Everything that can be
made beforehand is: models, sparse matrices, nested lists. Both start each call from nothing; mdpsolver would go on from
where it ended, so it is given the values and the policy to begin with. All are asked for an error of 1e-6 in float64;
QuantEcon's epsilon is twice the error that it leaves.
"""

from collections.abc import Callable
from typing import NamedTuple

import mdp_data
import numpy as np

ERROR = 1e-6


class Answer(NamedTuple):
    """What a solver found: values, the bounds it states if it does, and how many improvement steps it took."""

    values: np.ndarray
    steps: int | None = None
    lower: np.ndarray | None = None
    upper: np.ndarray | None = None


Call = Callable[[], Answer]


def quantecon_model(problem: mdp_data.Problem):
    """The whole product for dense probabilities, otherwise the feasible pairs with a CSR matrix."""
    import quantecon

    if problem.successors is None and problem.mask is None:
        return quantecon.markov.DiscreteDP(problem.rewards, problem.probabilities, problem.discount)
    rewards, matrix, states, actions = mdp_data.pairs(problem)
    return quantecon.markov.DiscreteDP(rewards, matrix, problem.discount, states, actions)


def quantecon(method: str):
    def make(problem: mdp_data.Problem) -> Call:
        model = quantecon_model(problem)

        def call():
            # its policy iteration never ends on ties: the cap is what stops it
            found = model.solve(method=method, epsilon=2 * ERROR, max_iter=250 if method == "pi" else 100_000)
            return Answer(found.v, found.num_iter)

        return call

    return make


def mdpsolver(parallel: bool):
    def make(problem: mdp_data.Problem) -> Call:
        import mdpsolver as package

        model = package.model()
        model.mdp(discount=problem.discount, **mdp_data.lists(problem))
        values, policy = [0.0] * len(problem.rewards), [0] * len(problem.rewards)

        def call():
            model.solve(algorithm="mpi", tolerance=ERROR, parallel=parallel, initValueVector=values, initPolicy=policy)
            return Answer(np.array(model.getValueVector()))

        return call

    return make


RIVALS = {
    "quantecon, MPI": quantecon("mpi"),
    "quantecon, VI": quantecon("vi"),
    "quantecon, PI": quantecon("pi"),
    "mdpsolver, MPI": mdpsolver(parallel=True),
    "mdpsolver, MPI, one thread": mdpsolver(parallel=False),
}
IMPORTS = {"quantecon": "quantecon", "mdpsolver": "mdpsolver"}


def variants(problems: list[mdp_data.Problem]) -> Callable[[], list[np.ndarray]]:
    """QuantEcon on one process after the other."""
    models = [quantecon_model(problem) for problem in problems]
    return lambda: [model.solve(method="mpi", epsilon=2 * ERROR).v for model in models]
