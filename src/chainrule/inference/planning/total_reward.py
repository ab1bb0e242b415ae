"""Undiscounted total reward until the process ends: stochastic shortest paths, soundly.

    v(s) = max_π E[ Σ_t r(s_t, a_t) ],   v(s) = 0 where the process has ended.

Without a discount the Bellman equation alone does not say what v is: where the process can go round for nothing, every
constant solves it. So the graph is looked at first. An *end component* is a set of states that some actions never leave
(de Alfaro 1997). Where all that these actions pay is zero, the component is made one state, with what leads out of it
and with staying, worth nothing, as its actions. Where staying pays on average, the total is infinite, and where gains
and losses cancel it does not settle: both are refused by name. In what is left every policy ends, or loses without
bound, and policy iteration from one that ends finds the optimum (Bertsekas and Tsitsiklis 1991).

The certificate: let z(s) be the most steps that actions which tie with the best can take on average. Then v − εz and
v + εz are a sub- and a supersolution of the Bellman equation once ε exceeds every residual, rounding included, which is
checked for all actions, so that the optimum is between them.
"""

from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

from . import reach
from .components import end_components, steps_within
from .evaluation import direct, is_narrow, krylov
from .process import Chain, Process


class Total(NamedTuple):
    """Values, what they may be off by in each state, Q, a policy, improvements, evaluations, and the history of gaps."""

    values: np.ndarray
    error: np.ndarray
    action_values: np.ndarray
    policy: np.ndarray
    iterations: int
    evaluations: int
    history: list[float]


class _Choices(NamedTuple):
    """What can be chosen where, sorted by `owner`: rows over the states of the quotient, and what they pay."""

    owner: np.ndarray
    rows: Any
    reward: np.ndarray
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
        process: with a discount of 1.
        names: of the states, for messages.
        most: improvements at most.
        exactly: evaluate policies by LU where that is cheap, instead of by Krylov methods.
        report: is told the iteration and the largest change.

    Raises:
        ValueError: a total that is infinite or does not settle; the message names a state.
    """
    free, inside = _free_components(process, names)
    quotient, size = _quotient(process, free)
    if size == 0:
        nothing = np.zeros(process.num_states)
        policy = np.where(inside.any(axis=1), inside.argmax(axis=1), process.any_policy())
        return Total(nothing, nothing, process.action_values(nothing), policy, 0, 0, [])
    choices, states, actions = _choices(process, quotient, size, inside, free)
    chosen = _ending(choices, size, names, states)
    v, iterations, evaluations = np.zeros(size), 0, 0
    history: list[float] = []
    while True:
        v = _worth(choices, chosen, v, exactly)
        evaluations += 1
        q = choices.reward + choices.rows @ v
        values = choices.best(q)
        margin = 4 * process.rounding(v)
        better = np.flatnonzero(values - q[chosen] > margin)
        iterations += 1
        history.append(float(np.abs(values - v).max()))
        report(iterations, history[-1])
        if len(better) == 0 or iterations >= most:
            break
        chosen[better] = choices.argbest(q)[better]
    error = _certificate(process, choices, chosen, v, q) if len(better) == 0 else np.full(size, np.inf)
    spread_out = np.where(process.ends, size, quotient)
    values, error = np.append(v, 0.0)[spread_out], np.append(error, 0.0)[spread_out]
    policy = _policy(process, inside, free, states[chosen], actions[chosen])
    return Total(values, error, process.action_values(values), policy, iterations, evaluations, history)


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
        f"the total reward from state {name!r} does not settle: the process can go round there for ever with gains and "
        "losses that cancel; give a discount below 1, or use the average reward as criterion"
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
    reward = np.concatenate([process.reward[states, actions], np.zeros(len(stay))])
    none = np.full(len(stay), -1)
    owner = owner[order]
    choices = _Choices(owner, whole[order], reward[order], np.unique(owner, return_index=True)[1])
    return choices, np.concatenate([states, none])[order], np.concatenate([actions, none])[order]


def _ending(choices: _Choices, size: int, names, states) -> np.ndarray:
    """A choice for each state, so that the process ends sooner or later: each may lead one step nearer to the end."""
    entry = np.repeat(np.arange(len(choices.owner)), np.diff(choices.rows.indptr))
    real = choices.rows.data > 0
    entry, target = entry[real], choices.rows.indices[real]
    leak = (
        np.ones(len(choices.owner)) - np.bincount(entry, choices.rows.data[real], minlength=len(choices.owner)) > 1e-9
    )
    back = sparse.coo_array((np.ones(len(entry), np.int8), (target, choices.owner[entry])), shape=(size, size)).tocsr()
    steps = reach.steps_from(back, np.unique(choices.owner[leak]))
    if (lost := np.flatnonzero(steps < 0)).size:
        state = states[choices.first[lost[0]]]
        raise ValueError(
            f"from state {names[int(state)]!r} the process never ends, and its total reward is -inf; add a way to a "
            "terminal state, give a discount below 1, or use the average reward as criterion"
        )
    nearer = np.full(len(choices.owner), size + 1)
    np.minimum.at(nearer, entry, steps[target])
    nearer[leak] = -1
    return choices.argbest(-nearer.astype(float))


def _worth(choices: _Choices, chosen: np.ndarray, v: np.ndarray, exactly: bool) -> np.ndarray:
    chain = Chain(choices.rows[chosen], choices.reward[chosen])
    found = direct(chain, discount=1.0) if exactly and is_narrow(chain.matrix) else None
    if found is None:
        scale = float(np.abs(chain.reward).max(initial=1.0))
        found = krylov(chain, v, discount=1.0, until=1e-13 * scale)
    return found


def _certificate(process: Process, choices: _Choices, chosen, v, q) -> np.ndarray:
    """How far v may be from the optimum in each state: εz of the module's text; infinite where that cannot be shown."""
    error = 2 * process.rounding(v)
    behind = v[choices.owner] - q  # how much worse than v a choice looks: −residual or more
    margin = 4 * error
    for _ in range(8):
        ties = np.flatnonzero(behind <= margin)
        z = _most_steps(choices, ties, chosen, 1e9 * len(v))
        if z is None:
            break
        grows = z[choices.owner] - choices.rows @ z  # at least one for those that tie
        epsilon = 1.01 * max(float((error - behind[ties]).max()), error)
        if (behind + epsilon * grows >= error).all() and (grows[ties] > 0.999).all():
            return epsilon * z
        margin = max(4 * margin, 2 * (epsilon * float(-grows.min()) + error))
    return np.full(len(v), np.inf)


def _most_steps(choices: _Choices, ties: np.ndarray, chosen: np.ndarray, limit: float) -> np.ndarray | None:
    """The most steps on average among choices that tie, by policy iteration; None where they can go round for ever."""
    some = np.union1d(ties, chosen)
    owner = choices.owner[some]
    part = _Choices(owner, choices.rows[some], np.ones(len(some)), np.unique(owner, return_index=True)[1])
    now, z = np.searchsorted(some, chosen), np.zeros(len(chosen))
    for _ in range(1000):
        z = _worth(part, now, z, exactly=True)
        if not (np.isfinite(z).all() and z.min() >= 0.5 and z.max() < limit):
            return None
        q = 1 + part.rows @ z
        better = np.flatnonzero(part.best(q) - q[now] > 1e-9 * z.max())
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
