"""Markov decision processes: states, actions, what follows and what it pays.

    v(s) = max_a { r(s, a) + γ Σ_{s'} p(s' | s, a) v(s') }

Reference: Puterman (1994), "Markov Decision Processes".
"""

from collections.abc import Hashable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float, Key

from ..forms.chain import is_concrete
from ..forms.transitions import Misfit, Transitions
from ..inference.planning.process import Process
from ..learning import progress as bars
from ..learning.fit import Fit
from . import mdp_experience as experience
from . import mdp_solving as solving
from . import mdp_sources as sources
from . import mdp_worth as worths
from .markov_chain import MarkovChain
from .mdp_constructors import AbstractConstructors
from .mdp_experience import Trajectories, walk
from .mdp_policies import as_matrix, as_table, chain_of, normalised, occupancy
from .policy import Evaluation, Policy, Solution, state_index

if TYPE_CHECKING:
    import networkx as nx


class MDP(AbstractConstructors):
    """A Markov decision process with named states and actions.

    Args:
        probabilities, rewards, successors, rows, mask, terminal, discount: as in `Transitions`; rewards may also be by
            state alone, (S,), for acting in it, and rows that many actions share are found and stored once.
        states, actions: names, any hashable values; 0, 1, … by default.
        initial: distribution of the first state, (S,), where it matters.

    Raises:
        ValueError: as `Transitions`, and names that do not fit, or a reward by state for the end.

    Example:
        >>> import chainrule as cr
        >>> mdp = cr.MDP([[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [1.0, 0.0]]], [[0.0, 0.0], [1.0, 0.0]],
        ...              discount=0.9, states=("home", "away"), actions=("stay", "go"))
        >>> solution = mdp.solve()
        >>> solution.policy["home"], round(solution["home"], 4), solution.status
        ('go', 9.0, SolveStatus.CERTIFIED)
    """

    transitions: Transitions
    initial: Float[Array, " state"] | np.ndarray | None
    state_names: tuple[Hashable, ...] | None = eqx.field(static=True)
    action_names: tuple[Hashable, ...] | None = eqx.field(static=True)

    def __init__(
        self,
        probabilities,
        rewards,
        *,
        discount=1.0,
        successors=None,
        rows=None,
        mask=None,
        terminal=None,
        states: Iterable[Hashable] | None = None,
        actions: Iterable[Hashable] | None = None,
        initial=None,
    ):
        self.state_names, self.action_names = sources.as_names(states, "state"), sources.as_names(actions, "action")
        try:
            form = Transitions(
                probabilities,
                sources.by_action(rewards, probabilities, rows, terminal),
                successors=successors,
                rows=rows,
                mask=mask,
                terminal=terminal,
                discount=discount,
            )
        except Misfit as error:
            raise error.named(self.state_names, self.action_names) from None
        self.transitions = form.distinct() if rows is None else form
        self.initial = None if initial is None else sources.as_initial(initial, form.num_states)

    def __check_init__(self):
        for kind, names, size in (
            ("state", self.state_names, self.num_states),
            ("action", self.action_names, self.num_actions),
        ):
            if names is not None and len(names) != size:
                raise ValueError(f"{len(names)} names for {size} {kind}s")

    # What it is

    @property
    def num_states(self) -> int:
        """S, terminal states included."""
        return self.transitions.num_states

    @property
    def num_actions(self) -> int:
        """A, over all states."""
        return self.transitions.num_actions

    @property
    def states(self) -> Sequence[Hashable]:
        """Names of the states."""
        return range(self.num_states) if self.state_names is None else self.state_names

    @property
    def actions(self) -> Sequence[Hashable]:
        """Names of the actions."""
        return range(self.num_actions) if self.action_names is None else self.action_names

    @property
    def discount(self) -> Any:
        """γ."""
        return self.transitions.discount

    def index(self, state: Hashable) -> int:
        """The index of a state, by name.

        Example:
            >>> import chainrule as cr
            >>> cr.MDP([[[0.5, 0.5]], [[0.0, 1.0]]], [1, 0], discount=0.9, states=("home", "away")).index("away")
            1
        """
        return state_index(state, self.state_names, self.num_states)

    def replace(self, **changes) -> "MDP":
        """The same process with other `rewards`, `probabilities`, `discount` or `initial`; traced values are welcome.

        This is the way to differentiate a solution: `jax.grad(lambda r: mdp.replace(rewards=r).solve()["home"])`.

        Raises:
            ValueError: something else is to be replaced, or the new arrays do not fit.

        Example:
            >>> import chainrule as cr
            >>> mdp = cr.MDP([[[1, 0], [0, 1]], [[0, 1], [1, 0]]], [0, 1], discount=0.9, states=("home", "away"))
            >>> round(mdp.solve()["home"], 4), round(mdp.replace(discount=0.5).solve()["home"], 4)
            (9.0, 1.0)
        """
        form, known = self.transitions, ("rewards", "probabilities", "discount", "initial")
        if unknown := [name for name in changes if name not in known]:
            raise ValueError(f"cannot replace {unknown[0]!r}; what can be is {', '.join(known)}")
        if "probabilities" in changes and form.rows is not None:
            form = form.spread_out()
        rewards = changes.get("rewards", form.rewards if form.outcome_rewards is None else form.outcome_rewards)
        return MDP(
            changes.get("probabilities", form.probabilities),
            rewards,
            discount=changes.get("discount", form.discount),
            successors=form.successors,
            rows=form.rows,
            mask=form.mask,
            terminal=form.terminal,
            states=self.state_names,
            actions=self.action_names,
            initial=changes.get("initial", self.initial),
        )

    def graph(self) -> "nx.MultiDiGraph":
        """The process as a networkx graph: an edge for each outcome that is possible.

        Example:
            >>> import chainrule as cr
            >>> mdp = cr.MDP([[[1, 0], [0, 1]], [[0, 1], [1, 0]]], [0, 1], states=("home", "away"), actions=("stay", "go"))
            >>> [(s, t, data["action"]) for s, t, data in mdp.graph().edges(data=True) if s == "home"]
            [('home', 'home', 'stay'), ('home', 'away', 'go')]
        """
        self._needs_values("graph")
        return sources.as_graph(self.transitions, self.states, self.actions, self.initial)

    # What is best

    def solve(
        self,
        *,
        method: Any = None,
        criterion: Any = None,
        horizon: int | None = None,
        final=None,
        tolerance: float = 1e-6,
        max_iterations: int = 100_000,
        start=None,
        progress: bool = False,
    ) -> Solution:
        """Find the best policy, and bounds on what it is worth.

        Concrete arrays on the CPU are solved in float64 by the planner on the host. Traced, batched or accelerator arrays
        are solved in their own dtype by modified policy iteration in one compiled loop, with implicit derivatives.

        Args:
            method: `ModifiedPolicyIteration()` (the default), `ValueIteration()`, `PolicyIteration()`,
                `AndersonAcceleration()` or `LinearProgram()`. Without a discount, `PolicyIteration()`.
            criterion: what to maximise instead of the expected discounted reward: see `chainrule.criteria`.
            horizon: how many steps there are, instead of for ever. Values and policy then depend on the step.
            final: what each state is worth after the last step of a horizon, (S,). Terminal states are worth nothing at
                any time: let what leads there pay.
            tolerance: how far the values may be from the optimum, > 0. Policy iteration without a discount, and a
                horizon, end by themselves and are as exact as rounding lets them be.
            max_iterations: backups over all actions at most; thresholds for `CVaR`. A horizon takes one for each step.
            start: values to begin with, (S,), such as those of a solution of a similar process, discounted.
            progress: show a bar.

        The bounds are about the process as it was given, row by row, as long as it is discounted; without a discount, rows
        are divided by their sums first, since a row that falls short of one by rounding would be a way out.

        Raises:
            ValueError: a discount of 1 with an infinite total (the message names a state), rows that exceed one by so much
                that the discount does not make up for it, a tolerance that is not positive, options that do not fit
                each other, wrong shapes.

        Example:
            >>> import chainrule as cr
            >>> mdp = cr.MDP([[[1, 0], [0, 1]], [[0, 1], [1, 0]]], [0, 1], discount=0.9, states=("home", "away"))
            >>> solution = mdp.solve()
            >>> dict(solution.policy.items()), round(solution["home"], 4), bool(solution.gap <= 1e-6)
            ({'home': 1, 'away': 0}, 9.0, True)
            >>> mdp.solve(method=cr.ValueIteration(), tolerance=1e-3).status
            SolveStatus.CERTIFIED
            >>> mdp.solve(horizon=3).policy["away"]
            [0, 0, 0]
        """
        solving.check_options(method, criterion, horizon, tolerance, max_iterations)
        if not self._on_host():
            if not (criterion is None and horizon is None and start is None and final is None):
                raise ValueError(
                    "under jit, vmap and grad, and on accelerators, only the discounted optimum is solved, from zeros; "
                    "give concrete arrays on the CPU for anything else"
                )
            return solving.traced(self, method, tolerance, max_iterations)
        first = None if start is None else self._values(start, "start")
        last = None if final is None else self._final(final)
        if criterion is None:
            solving.refuse_leftovers(method, horizon, first, last, float(self.discount))
        with bars.bar("solving", total=max_iterations, enabled=progress) as token:
            options = {"tolerance": tolerance, "report": lambda n, gap: bars.show(token, n, gap)}
            if criterion is not None:
                options |= {"method": method, "start": first, "horizon": horizon, "final": last}
                return criterion.solve(self, Process(self.transitions), most=max_iterations, **options)
            if horizon is not None:
                return solving.planned(self, horizon, last, **options)
            if float(self.discount) < 1:
                return solving.discounted(self, method, first, most=max_iterations, **options)
            return solving.total(self, method, most=max_iterations, **options)

    # What a policy is worth, and where it goes

    def evaluate(self, policy, *, final=None, tolerance: float = 1e-6) -> Evaluation:
        """What a policy is worth: values, and bounds on them.

            v(s) = Σ_a π(a | s) { r(s, a) + γ Σ_{s'} p(s' | s, a) v(s') }

        Args:
            policy: a `Policy`, an array of actions (S,) or of probabilities (S, A), or a dict from states to actions, or to
                dicts of probabilities, which may miss one by 1e-5 and are divided by their sum. A policy for each of H
                steps, (H, S) or (H, S, A), such as that of `solve(horizon=H)`, has values for each step, (H + 1, S).
            final: what each state is worth after the last of these steps, (S,); zero by default.
            tolerance: how far the values may be off for `Evaluation.status` to be CERTIFIED, > 0.

        Without a discount the values are infinite where the policy gains or loses for ever. Under `jit`, `vmap` and `grad`
        they are differentiable, also in the policy's probabilities, come without bounds, and are NaN in place of infinite.

        Raises:
            ValueError: a policy that does not fit (the message names the state), a final worth without steps, gains and
                losses that cancel for ever.

        Example:
            >>> import chainrule as cr
            >>> mdp = cr.MDP([[[1, 0], [0, 1]], [[0, 1], [1, 0]]], [0, 1], discount=0.9, states=("home", "away"))
            >>> found = mdp.evaluate({"home": {0: 0.5, 1: 0.5}, "away": 0})
            >>> round(found["home"], 4), round(found["away"], 4), found.status
            (8.1818, 10.0, SolveStatus.CERTIFIED)
        """
        if not tolerance > 0:
            raise ValueError(f"tolerance is {tolerance}; wanted a positive number")
        table = as_table(policy, self, steps=True)
        by_step = table.ndim == (2 if np.issubdtype(table.dtype, np.integer) else 3)
        if final is not None and not by_step:
            raise ValueError("final is what states are worth after the last step, but the policy has no steps")
        if not (self._on_host() and is_concrete(table) and is_concrete(final)):
            if by_step:
                last = np.zeros(self.num_states) if final is None else final
                return Evaluation(worths.traced_by_steps(self.transitions, table, last), states=self.state_names)
            return Evaluation(solving.traced_worth(self.transitions, table), states=self.state_names)
        table = normalised(np.asarray(table))
        if by_step:
            last = np.zeros(self.num_states) if final is None else self._final(final)
            found = worths.by_steps(self.transitions, table, last)
        else:
            process = Process(self.transitions, normalised=not float(self.discount) < 1)
            found = worths.worth(process, chain_of(process, table), self.states)
        return Evaluation(found.values, found.lower, found.upper, tolerance, found.exact, self.state_names)

    def occupancy(self, policy, *, start=None) -> np.ndarray:
        """Expected discounted number of times that each (s, a) is visited, (S, A), on the host.

            μ(s, a) = E Σ_t γ^t 1[s_t = s, a_t = a]

        Args:
            policy: as in `evaluate`, for all steps.
            start: a state, or a distribution over states; the model's `initial` by default.

        Its sum times the rewards is the value of the start, and so it is the gradient of that value with respect to them.
        Nothing is done in terminal states, so that they are not counted; nor are, without a discount, states that cannot
        be left and pay nothing.

        Raises:
            ValueError: without a discount, a policy that may stay for ever where it can come to; the message names a
                state. No start.

        Example:
            >>> import chainrule as cr
            >>> mdp = cr.MDP([[[1, 0], [0, 1]], [[0, 1], [1, 0]]], [0, 1], discount=0.9, states=("home", "away"))
            >>> mdp.occupancy({"home": 1, "away": 0}, start="home").round(6).tolist()
            [[0.0, 1.0], [9.0, 0.0]]
        """
        self._needs_values("occupancy")
        table = normalised(np.asarray(as_table(policy, self)))
        found = occupancy(self.transitions, table, np.asarray(self._start(start), np.float64), self.states)
        if np.issubdtype(table.dtype, np.integer):
            table = np.arange(self.num_actions) == table[:, None]
        return found[:, None] * table

    def chain(self, policy) -> MarkovChain:
        """The Markov chain under a policy, over the same states; those that have ended stay where they are.

        It starts as the process does, or uniformly.

        Raises:
            ValueError: a policy that does not fit, or one that depends on the step; more states than a matrix has room for.

        Example:
            >>> import chainrule as cr
            >>> mdp = cr.MDP([[[1, 0], [0, 1]], [[0, 1], [1, 0]]], [0, 1], states=("home", "away"))
            >>> mdp.chain({"home": {0: 0.75, 1: 0.25}, "away": 1}).transition.tolist()
            [[0.75, 0.25], [1.0, 0.0]]
        """
        self._needs_values("chain")
        process = Process(self.transitions)
        matrix = as_matrix(process, chain_of(process, normalised(np.asarray(as_table(policy, self)))))
        size = self.num_states
        return MarkovChain(np.full(size, 1 / size) if self.initial is None else self.initial, matrix, self.state_names)

    def simulate(
        self, key: Key[Array, ""], policy, length: int, *, num_samples: int = 1, start: Any = None
    ) -> Trajectories:
        """Walk through the process, many times side by side.

        Args:
            key: a typed random key.
            policy: as in `evaluate`. One that depends on the step is followed from its first step on.
            length: steps of each walk, which may end earlier; at most those of the policy, where it has steps.
            num_samples: walks.
            start: a state, or a distribution over states; the model's `initial` by default.

        Raises:
            ValueError: a policy or a start that does not fit, a length below 1 or beyond the policy's steps.

        Example:
            >>> import jax, chainrule as cr
            >>> mdp = cr.MDP([[[1, 0], [0, 1]], [[0, 1], [1, 0]]], [0, 1], states=("home", "away"))
            >>> walks = mdp.simulate(jax.random.key(0), {"home": 1, "away": 0}, 2, start="home")
            >>> walks.labels(), walks.returns().tolist()
            (['home', 'away', 'away'], [1.0])
        """
        for name, value in (("length", length), ("num_samples", num_samples)):
            if value < 1:
                raise ValueError(f"{name} is {value}; wanted at least one")
        table = as_table(policy, self, steps=True)
        probs = Policy(table).probabilities(self.num_actions)
        if probs.ndim == 3:
            if length > len(probs):
                raise ValueError(f"length is {length}, but the policy says what to do in {len(probs)} steps only")
            probs = probs[:length]
        states, actions, rewards = walk(
            key, self.transitions, probs, self._start(start), length=length, num_samples=num_samples
        )
        return Trajectories(states, actions, rewards, self.state_names, self.action_names)

    def _start(self, start) -> Any:
        """A distribution over states."""
        if start is not None:
            return sources.as_start(start, self)
        if self.initial is None:
            raise ValueError("where does it start? give start=, a state or a distribution, or the model an initial one")
        return self.initial

    def _needs_values(self, what: str):
        """Refuse traced arrays where the host computes."""
        if not all(is_concrete(leaf) for leaf in jax.tree.leaves(self)):
            raise ValueError(
                f"{what} is computed on the host, from values that jit, vmap and grad do not have yet; call it outside, or "
                "use evaluate and simulate"
            )

    # Learning

    def fit(self, data, *, smoothing: float = 0.0) -> Fit:
        """Learn probabilities and mean rewards.

            p(s' | s, a) = (count(s, a, s') + smoothing) / (count(s, a) + smoothing · possible(s, a))

        possible(s, a) being how many outcomes this process allows; others stay impossible.

        Args:
            data: `Trajectories`, or steps (state, action, reward, next state) of names, in one list or several.
            smoothing: pseudo-count of every outcome, at least 0.

        Of an action that was never tried, the formula knows nothing without smoothing, and the row stays as it was; with
        smoothing, all its outcomes become equally probable, as in the mean of `posterior(prior=smoothing)`. Its reward
        stays as it was in either case. `Fit.degenerate`, (S, A), says where this is so, and the status is DEGENERATE.
        Rewards are learned by state and action, also where this process has them by outcome.

        Raises:
            ValueError: a step that this process does not allow, unknown names, a negative smoothing.

        Example:
            >>> import chainrule as cr
            >>> mdp = cr.MDP([[[0.5, 0.5]], [[0.5, 0.5]]], [[0.0], [0.0]], states=("in", "out"), actions=("wait",))
            >>> fit = mdp.fit([("in", "wait", 1.0, "in"), ("in", "wait", 2.0, "out"), ("in", "wait", 3.0, "in")])
            >>> fit.model.transitions.probabilities[0, 0].round(4).tolist(), fit.model.transitions.rewards[0].tolist()
            ([0.6667, 0.3333], [2.0])
            >>> fit.status, fit.degenerate[:, 0].tolist()
            (Status.DEGENERATE, [False, True])
        """
        self._needs_values("fit")
        return experience.fit(self, data, smoothing)

    def posterior(self, key: Key[Array, ""], data, *, num_draws: int = 100, prior: float = 1.0) -> "MDP":
        """Draws from the posterior given data: one MDP whose arrays have a leading axis of draws.

        Probabilities have independent Dirichlet(prior) priors over the outcomes that this process allows; rewards are the
        observed means, or as they were where nothing was observed.

        Args:
            key: a typed random key.
            data: as in `fit`.
            num_draws: how many draws.
            prior: pseudo-count of every outcome, > 0.

        Raises:
            ValueError: as `fit`, and a prior that is not positive.

        Example:
            What one policy is worth under each draw; `m.solve().values` is what the best ones are.

            >>> import jax, chainrule as cr
            >>> mdp = cr.MDP([[[0.5, 0.5]], [[0.0, 1.0]]], [[1.0], [0.0]], discount=0.9, states=("in", "out"))
            >>> draws = mdp.posterior(jax.random.key(0), [("in", 0, 1.0, "in")] * 8, num_draws=50)
            >>> values = jax.vmap(lambda m: m.evaluate({"in": 0, "out": 0}).values)(draws)
            >>> values.shape, bool(values[:, 0].min() < 5 < values[:, 0].max())
            ((50, 2), True)
        """
        self._needs_values("posterior")
        return experience.draws(self, key, data, num_draws, prior)

    def _on_host(self) -> bool:
        """Whether everything can be looked at now, and lies in the memory of this machine's processor."""
        leaves = jax.tree.leaves(self.transitions)
        if not all(is_concrete(leaf) for leaf in leaves):
            return False
        return all(d.platform == "cpu" for leaf in leaves if isinstance(leaf, jax.Array) for d in leaf.devices())

    def _final(self, final) -> np.ndarray:
        """What states are worth in the end, checked; terminal ones nothing."""
        final = self._values(final, "final")
        if (lost := np.flatnonzero(np.asarray(self.transitions.terminal) & (final != 0))).size:
            s = int(lost[0])
            raise ValueError(
                f"final is {final[s]:.6g} in the terminal state {self.states[s]!r}, where nothing is to be had any more: "
                "set it to 0, and add the payoff to the rewards of what leads there"
            )
        return final

    def _values(self, values, name: str) -> np.ndarray:
        try:
            values = np.asarray(values, np.float64)
        except (TypeError, ValueError):
            raise ValueError(f"{name} is {values!r}; wanted numbers, ({self.num_states},)") from None
        if values.shape != (self.num_states,):
            raise ValueError(f"{name} has shape {values.shape}; wanted ({self.num_states},)")
        if not np.isfinite(values).all():
            raise ValueError(f"{name} of state {self.states[int(np.argmin(np.isfinite(values)))]!r} is not finite")
        return values

    def __repr__(self):
        return f"MDP({self.num_states} states, {self.num_actions} actions)"
