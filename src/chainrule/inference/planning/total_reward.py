"""Undiscounted total reward until the process ends: stochastic shortest paths, soundly.

    v(s) = max_π E[ Σ_t r(s_t, a_t) ],   v(s) = 0 where the process has ended.

Without a discount the Bellman equation alone does not say what v is: where the process can go round for nothing, every
constant solves it. So the graph is looked at first. An *end component* is a set of states that some actions never leave
(de Alfaro 1997). Where all that these actions pay is zero, the component is made one state, with what leads out of it
and with staying, worth nothing, as its actions. Where staying pays on average, the total is infinite; where gains and
losses may cancel, or it takes too long to tell that they do not, it is not known to settle: both are refused by name.
In what is left every policy ends, or loses without bound, and policy iteration from one that ends finds the optimum
(Bertsekas and Tsitsiklis 1991).

The certificate: let z(s) be, roughly, the most steps that actions which tie with the best can take on average. v + εz is
not below any policy's worth if no action makes it larger, and v − εz is not above that of the policy found if its actions
do not make it smaller. Both are checked, rounding included, for an ε that exceeds every residual.

Rows are divided by their sums before all that: one that falls short of one by rounding is not a way out.
"""

from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

from . import reach
from .bounds import rounding
from .components import end_components, steps_within
from .evaluation import direct, is_narrow, krylov
from .process import Chain, Process


class Total(NamedTuple):
    """Values, what they may be off by in each state, Q, a policy, improvements, evaluations, and the history of gaps.

    `exact` says whether rounding is all that is left.
    """

    values: np.ndarray
    error: np.ndarray
    action_values: np.ndarray
    policy: np.ndarray
    iterations: int
    evaluations: int
    history: list[float]
    exact: bool


class _Choices(NamedTuple):
    """What can be chosen where, sorted by `owner`: rows over states of the quotient, what they pay, if they may end."""

    owner: np.ndarray
    rows: Any
    reward: np.ndarray
    leak: np.ndarray
    first: np.ndarray  # where the choices of each owner begin

    def best(self, q: np.ndarray) -> np.ndarray:
        return np.maximum.reduceat(q, self.first)

    def argbest(self, q: np.ndarray) -> np.ndarray:
        """The first choice of each owner that is the best."""
        wins = np.flatnonzero(q == self.best(q)[self.owner])
        return wins[np.unique(self.owner[wins], return_index=True)[1]]


def solve(process: Process, names, *, most: int, exactly: bool = True, report=lambda n, gap: None) -> Total:
    """The best total reward, certified.

    Args:
        process: with a discount of 1 and normalised rows.
        names: of the states, for messages.
        most: improvements at most.
        exactly: evaluate policies by LU where that is cheap, instead of by Krylov methods.
        report: is told the iteration and the largest change.

    Raises:
        ValueError: a total that is infinite or may not settle; the message names a state.
    """
    free, inside = _free_components(process, names)
    quotient, size = _quotient(process, free)
    if size == 0:
        nothing = np.zeros(process.num_states)
        policy = np.where(inside.any(axis=1), inside.argmax(axis=1), process.any_policy())
        return Total(nothing, nothing, process.action_values(nothing), policy, 0, 0, [], True)
    choices, states, actions = _choices(process, quotient, size, inside, free)
    chosen = _ending(choices, size, names, states)
    evaluate = _Evaluation(exactly)
    v, iterations = np.zeros(size), 0
    largest = float(np.abs(choices.reward).max(initial=1.0))
    history: list[float] = []
    # what Krylov methods spend most on are the last digits, which only the last policy needs
    until = 1e-9 * largest
    while True:
        v = evaluate(choices, chosen, v, until)
        q = choices.reward + choices.rows @ v
        values, residual = choices.best(q), float(np.abs(q[chosen] - v).max())
        # what evaluation leaves must not look like an improvement, or policies could go round in circles
        better = np.flatnonzero(values - q[chosen] > 4 * process.rounding(v) + 2 * residual)
        iterations += 1
        history.append(float(np.abs(values - v).max()))
        report(iterations, history[-1])
        done = len(better) == 0 and (residual <= 8 * process.rounding(v) or until <= 1e-13 * largest)
        if done or iterations >= most:
            break
        chosen[better] = choices.argbest(q)[better]
        until = until if len(better) else 1e-13 * largest
    evaluations = evaluate.calls
    error = _certificate(process, choices, chosen, v, q, evaluate) if len(better) == 0 else np.full(size, np.inf)
    exact = len(better) == 0 and residual <= 8 * process.rounding(v) and bool(np.isfinite(error).all())
    spread_out = np.where(process.ends, size, quotient)
    values, error = np.append(v, 0.0)[spread_out], np.append(error, 0.0)[spread_out]
    policy = _policy(process, inside, free, states[chosen], actions[chosen])
    return Total(values, error, process.action_values(values), policy, iterations, evaluations, history, exact)


def _free_components(process: Process, names) -> tuple[np.ndarray, np.ndarray]:
    """Components in which the process can stay for nothing, −1 elsewhere; and the actions that do so."""
    component, inside = end_components(process)
    paying = inside & (process.reward > 0)
    for number in np.unique(component[paying.any(axis=1)]):
        _refuse_gains(process, np.flatnonzero(component == number), inside, names)
    return end_components(process, inside & (process.reward == 0))


def _refuse_gains(process: Process, states: np.ndarray, inside: np.ndarray, names) -> None:
    """Raise unless every way to stay in these states loses on average, by relative value iteration."""
    local, actions = np.nonzero(inside[states])
    owner = states[local]
    rows = sparse.csr_array(process.matrix)[process.row(owner, actions)][:, states]
    reward = process.reward[owner, actions]
    first = np.unique(local, return_index=True)[1]
    scale, h = float(np.abs(reward).max()), np.zeros(len(states))
    for _ in range(100_000):
        change = np.maximum.reduceat(reward + rows @ h, first) - h
        low, high = float(change.min()), float(change.max())
        if high < -1e-12 * scale:
            return
        name = names[int(states[0])]
        if low > 1e-12 * scale:
            raise ValueError(
                f"the total reward from state {name!r} is infinite: there the process can stay for ever and gain at "
                f"least {low:.3g} a step on average; give a discount below 1, or use the average reward as criterion"
            )
        if high - low <= 1e-10 * scale:
            break
        h += 0.5 * (change - change[0])
    raise ValueError(
        f"that the total reward from state {name!r} settles could not be shown: there the process can stay for ever, and "
        f"may not lose by it, since what it gains a step on average is known to be between {low:.3g} and {high:.3g} only; "
        "give a discount below 1, or use the average reward as criterion"
    )


def _quotient(process: Process, free: np.ndarray) -> tuple[np.ndarray, int]:
    """The number of each state once free components are one state; those that end the process have none."""
    group = np.where(free >= 0, process.num_states + free, np.arange(process.num_states))
    quotient = np.full(process.num_states, -1)
    going = ~process.ends
    numbers, quotient[going] = np.unique(group[going], return_inverse=True)
    return quotient, len(numbers)


def _choices(process: Process, quotient, size: int, inside, free) -> tuple[_Choices, np.ndarray, np.ndarray]:
    """All choices, with the state and the action that each one is; −1 for staying in a free component."""
    states, actions = np.nonzero(process.mask & ~process.ends[:, None] & ~(inside & (free >= 0)[:, None]))
    rows = sparse.csr_array(process.matrix)[process.row(states, actions)]
    fold = sparse.csr_array(
        (np.ones(int((quotient >= 0).sum())), (np.flatnonzero(quotient >= 0), quotient[quotient >= 0])),
        shape=(process.num_states, size),
    )
    stay = np.unique(quotient[free >= 0])
    owner = np.concatenate([quotient[states], stay])
    nothing = sparse.csr_array((len(stay), size))
    whole: Any = sparse.vstack([rows @ fold, nothing], format="csr")
    order = np.argsort(owner, kind="stable")
    entry = np.repeat(np.arange(len(states)), np.diff(rows.indptr))
    leak = np.zeros(len(owner), bool)
    leak[entry[(rows.data > 0) & process.ends[rows.indices]]] = True
    reward = np.concatenate([process.reward[states, actions], np.zeros(len(stay))])
    none = np.full(len(stay), -1)
    owner = owner[order]
    choices = _Choices(owner, whole[order], reward[order], leak[order], np.unique(owner, return_index=True)[1])
    return choices, np.concatenate([states, none])[order], np.concatenate([actions, none])[order]


def _ending(choices: _Choices, size: int, names, states) -> np.ndarray:
    """A choice for each state, so that the process ends sooner or later: each may lead one step nearer to the end."""
    entry = np.repeat(np.arange(len(choices.owner)), np.diff(choices.rows.indptr))
    real = choices.rows.data > 0
    entry, target = entry[real], choices.rows.indices[real]
    back = sparse.coo_array((np.ones(len(entry), np.int8), (target, choices.owner[entry])), shape=(size, size)).tocsr()
    steps = reach.steps_from(back, np.unique(choices.owner[choices.leak]))
    if (lost := np.flatnonzero(steps < 0)).size:
        state = states[choices.first[lost[0]]]
        raise ValueError(
            f"from state {names[int(state)]!r} the process never ends, and its total reward is -inf; add a way to a "
            "terminal state, give a discount below 1, or use the average reward as criterion"
        )
    nearer = choices.leak.copy()
    nearer[entry[steps[target] < steps[choices.owner[entry]]]] = True
    # of those the one that leads towards the end by most on average: by luck alone it can take longer than numbers reach
    return choices.argbest(np.where(nearer, -(choices.rows @ (1.0 + steps)), -np.inf))


class _Evaluation:
    """What policies are worth, by LU where that is cheap and asked for, or Krylov methods fail; counts its `calls`."""

    def __init__(self, exactly: bool):
        self.exactly, self.calls, self._narrow = exactly, 0, None

    def __call__(self, choices: _Choices, chosen: np.ndarray, v: np.ndarray, until: float) -> np.ndarray:
        """From values v, to a residual of `until`, or as near as it gets."""
        self.calls += 1
        chain = Chain(choices.rows[chosen], choices.reward[chosen])
        cheap = self._cheap(chain)
        found = direct(chain, discount=1.0) if self.exactly and cheap else None
        if found is not None:
            return found
        v = krylov(chain, v, discount=1.0, until=until, **({"restarts": 1} if cheap else {}))
        left = float(np.abs(chain.reward + chain.expect(v) - v).max())
        if left > max(until, 64 * float(np.finfo(float).eps * np.abs(v).max())) and not self.exactly and cheap:
            self.exactly, found = True, direct(chain, discount=1.0)
        return v if found is None else found

    def _cheap(self, chain: Chain) -> bool:
        if self._narrow is None:
            # what Krylov methods hardly get done without a discount may cost LU some seconds
            self._narrow = is_narrow(chain.matrix, work=3e10)
        return self._narrow


def _certificate(process: Process, choices: _Choices, chosen, v, q, evaluate: _Evaluation) -> np.ndarray:
    """How far v may be from the optimum in each state: εz of the module's text; infinite where that cannot be shown."""
    error = 2 * process.rounding(v)
    behind = v[choices.owner] - q  # how much worse than v a choice looks: −residual or more
    margin = 4 * error + 2 * float(np.abs(behind[chosen]).max())
    for _ in range(8):
        ties = np.union1d(np.flatnonzero(behind <= margin), chosen)
        z = _most_steps(choices, ties, chosen, 1e9 * len(v), evaluate)
        if z is None:
            break
        # at least about one for those that tie
        grows = z[choices.owner] - choices.rows @ z - rounding(process.terms, 1.0, 1.0, float(z.max()))
        least = float(grows[ties].min())
        if least < 0.1:
            break
        epsilon = 1.01 / least * max(float((error - behind[ties]).max()), float((error + behind[chosen]).max()))
        above = (behind + epsilon * grows >= error).all()
        below = (epsilon * grows[chosen] >= behind[chosen] + error).all()
        if above and below:
            return epsilon * z
        margin = max(4 * margin, 2 * (epsilon * float(-grows.min()) + error))
    return np.full(len(v), np.inf)


def _most_steps(choices: _Choices, ties, chosen, limit: float, evaluate: _Evaluation) -> np.ndarray | None:
    """The most steps on average among choices that tie, roughly; None where they can go round for ever."""
    owner = choices.owner[ties]
    first = np.unique(owner, return_index=True)[1]
    part = _Choices(owner, choices.rows[ties], np.ones(len(ties)), choices.leak[ties], first)
    now, z = np.searchsorted(ties, chosen), np.zeros(len(chosen))
    for _ in range(1000):
        z = evaluate(part, now, z, 0.05)
        q = 1 + part.rows @ z
        if not (np.isfinite(z).all() and z.min() >= 0.5 and z.max() < limit and np.abs(q[now] - z).max() < 0.5):
            return None
        better = np.flatnonzero(part.best(q) - q[now] > 0.2)  # a rough z will do, as long as it grows
        if len(better) == 0:
            return z
        now[better] = part.argbest(q)[better]
    return None


def _policy(process: Process, inside, free, states, actions) -> np.ndarray:
    """The chosen actions; in a free component, the way to the state it is left from, or any way to stay."""
    policy = process.any_policy()
    within = free >= 0
    policy[within] = inside[within].argmax(axis=1)
    leaving = states[(states >= 0)]
    policy[leaving] = actions[states >= 0]
    exits = leaving[within[leaving]]
    if len(exits):
        towards = steps_within(process, inside & within[:, None], exits)
        walking = within & (towards >= 0)
        policy[walking] = towards[walking]
    return policy
