"""The ways to a decision process: from graphs, matrices, tables, functions, experience, and at random."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import equinox as eqx
import numpy as np
from jaxtyping import Array, Key

from ..graphs.tables import read_table
from ..graphs.transition_graph import TransitionGraph
from . import mdp_experience as experience
from . import mdp_sources as sources
from .emissions.base import generator

if TYPE_CHECKING:
    import networkx as nx


class AbstractConstructors(eqx.Module):
    """The class methods that make an `MDP`: each finds arrays, which the class checks."""

    @classmethod
    def from_graph(cls, graph: "nx.MultiDiGraph | TransitionGraph", *, discount: float = 1.0) -> Self:
        """The process that a graph describes: an edge is one outcome of an `action`, with `probability` and `reward`.

        Nodes may have `terminal=True`, and `initial`, the probability of starting there. See
        `TransitionGraph.from_networkx` for what is checked.

        Example:
            >>> import networkx as nx, chainrule as cr
            >>> graph = nx.MultiDiGraph()
            >>> graph.add_node("off", terminal=True)
            >>> _ = graph.add_edge("on", "on", action="run", probability=0.9, reward=1.0)
            >>> _ = graph.add_edge("on", "off", action="run", probability=0.1)
            >>> _ = graph.add_edge("on", "off", action="stop", probability=1.0, reward=5.0)
            >>> cr.MDP.from_graph(graph, discount=0.9).solve().policy["on"]
            'stop'
        """
        if not isinstance(graph, TransitionGraph):
            graph = TransitionGraph.from_networkx(graph)
        if not graph.actions:
            raise ValueError("the graph has no actions, so there is nothing to decide: use MarkovChain.from_graph")
        return _made(cls, **sources.from_graph(graph), discount=discount)

    @classmethod
    def from_sparse(
        cls, matrices, rewards, *, num_actions: int | None = None, discount: float = 1.0, **options
    ) -> Self:
        """From scipy-sparse matrices: one (S, S) for each action, or one (S·A, S) whose row s·A + a is p(· | s, a).

        Args:
            matrices: the list, or the one matrix. An empty row marks an infeasible action.
            rewards: (S,) or (S, A); or r(s, a, s'), as sparse as `matrices` and in the same form: a list, or one matrix.
            num_actions: A, for the one matrix.
            discount: γ.
            **options: `mask`, `terminal`, `states`, `actions`, `initial` as for the class.

        Rows are padded to the longest. A state all of whose rows are empty is terminal.

        Raises:
            ValueError: as for the class, and matrices or rewards whose shapes do not fit.

        Example:
            >>> from scipy import sparse
            >>> import chainrule as cr
            >>> stay, move = sparse.eye_array(3), sparse.diags_array([1.0, 1.0], offsets=1, shape=(3, 3))
            >>> mdp = cr.MDP.from_sparse([stay, move], [0.0, 0.0, 1.0], discount=0.5, actions=("stay", "move"))
            >>> solution = mdp.solve()
            >>> solution.policy[0], round(solution[0], 4)
            ('move', 0.5)
        """
        return _made(cls, **(sources.from_sparse(matrices, rewards, num_actions) | options), discount=discount)

    @classmethod
    def from_table(
        cls,
        table: Mapping | Sequence,
        *,
        discount: float = 1.0,
        states: Iterable[Hashable] | None = None,
        actions: Iterable[Hashable] | None = None,
        initial=None,
        end: Hashable = "done",
    ) -> Self:
        """From nested lists or mappings, `table[s][a] = [(probability, next state, reward, done), …]`.

        An outcome with `done` is worth its reward and nothing after it; where states do not tell that by themselves, a
        terminal state `end` is appended. See `chainrule.graphs.tables.read_table` for all arguments and what is checked,
        and `chainrule.rl.from_gymnasium` for environments that hold such a table.

        Example:
            >>> import chainrule as cr
            >>> dice = [{"roll": [(5 / 6, 0, 3.5, False), (1 / 6, 0, 0.0, True)], "stop": [(1.0, 0, 10.0, True)]}]
            >>> cr.MDP.from_table(dice, discount=0.99).solve().policy[0]
            'roll'
        """
        arrays = read_table(table, states=states, actions=actions, initial=initial, end=end)
        return _made(cls, **sources.from_table(arrays), discount=discount)

    @classmethod
    def from_function(
        cls,
        step,
        states: Iterable[Hashable],
        actions: Sequence[Hashable],
        *,
        explore: bool = True,
        discount: float = 1.0,
    ) -> Self:
        """From a function: `step(state, action)` gives outcomes [(probability, next state, reward), …].

        Args:
            step: called once for each state and action. None, or an empty list, says that the action is infeasible there.
            states: where to begin; whatever can be reached from there is found, if `explore`, and else must be listed.
            actions: their names.
            explore: whether states that `states` does not name may turn up.
            discount: γ.

        A state without feasible actions is terminal. Nothing but the padded arrays is kept.

        Example:
            >>> import chainrule as cr
            >>> def step(money, bet):
            ...     if 0 < money < 5 and bet <= money:
            ...         return [(0.4, min(money + bet, 5), float(money + bet >= 5)), (0.6, money - bet, 0.0)]
            >>> cr.MDP.from_function(step, [2], actions=[1, 2, 3], discount=0.99).solve().policy[2]
            2
        """
        return _made(cls, **sources.from_function(step, states, actions, explore=explore), discount=discount)

    @classmethod
    def random(
        cls, key: Key[Array, ""], num_states: int, num_actions: int, *, num_successors: int = 8, discount: float = 0.95
    ) -> Self:
        """A random sparse process ("Garnet"): uniform successors, Dirichlet(1) probabilities, uniform rewards.

        Example:
            >>> import jax, chainrule as cr
            >>> cr.MDP.random(jax.random.key(0), 100, 4, num_successors=3)
            MDP(100 states, 4 actions)

        References:
            Archibald, McKinnon and Thomas (1995), On the generation of Markov decision processes.
        """
        for name, value in (
            ("num_states", num_states),
            ("num_actions", num_actions),
            ("num_successors", num_successors),
        ):
            if value < 1:
                raise ValueError(f"{name} is {value}; wanted at least one")
        rng, shape = generator(key), (num_states, num_actions)
        successors = rng.integers(0, num_states, (*shape, num_successors), np.int32)
        return _made(
            cls,
            rng.dirichlet(np.ones(num_successors), shape),
            rng.random(shape),
            successors=successors,
            discount=discount,
        )

    @classmethod
    def from_trajectories(cls, steps: Sequence, *, smoothing: float = 0.0, discount: float = 1.0) -> Self:
        """Learn a process from steps (state, action, reward, next state) of names: one list, or a list of lists.

        States, actions and possible outcomes are those that occur. A state that is never left is terminal.

        Example:
            >>> import chainrule as cr
            >>> steps = [("in", "wait", 1.0, "in"), ("in", "wait", 1.0, "out"), ("in", "go", 0.5, "out")]
            >>> cr.MDP.from_trajectories(steps, discount=0.9).solve().policy["in"]
            'wait'
        """
        return _made(cls, **experience.structure(steps), discount=discount).fit(steps, smoothing=smoothing).model


def _made(cls: Any, *args, **options) -> Any:
    """An instance of the final class, whose arguments this one does not know."""
    return cls(*args, **options)
