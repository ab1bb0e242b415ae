"""Transition tables: a decision process as nested lists, `table[s][a] = [(probability, next state, reward, done), …]`.

This is what Gymnasium's toy environments hold as `P`. An outcome with `done` ends the episode: whatever state it names,
nothing is earned after it, so that its next state must be worth zero. `done` belongs to the outcome and not to the state:
the same state may be entered by outcomes that end the episode and by others that do not. Two kinds of states are terminal
by themselves: those without outcomes or with nothing but `done` loops to themselves that pay nothing, and those which only
`done` outcomes enter and where nothing starts. Outcomes that end the episode elsewhere go to one more state of its own.
"""

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from .labels import first_duplicate, lookup

_TOLERANCE = 1e-6  # how far a row may be from summing to one


class TableArrays(NamedTuple):
    """A transition table as padded arrays.

    Attributes:
        successors: state indices, shape (S, A, b); padded with 0.
        probabilities: of each outcome, shape (S, A, b); padded with zero. Outcomes with the same successor and reward are
            one.
        rewards: of each outcome, shape (S, A, b); zero where there is none.
        mask: True where an action is feasible, shape (S, A).
        terminal: True where the process has ended, shape (S,).
        initial: probability of starting in each state, shape (S,), or None where that was not said.
        states, actions: the labels.
    """

    successors: Int[np.ndarray, "state action next"]
    probabilities: Float[np.ndarray, "state action next"]
    rewards: Float[np.ndarray, "state action next"]
    mask: Bool[np.ndarray, "state action"]
    terminal: Bool[np.ndarray, " state"]
    initial: Float[np.ndarray, " state"] | None
    states: tuple[Hashable, ...]
    actions: tuple[Hashable, ...]


class _Outcome(NamedTuple):
    probability: float
    target: int
    reward: float
    done: bool


def read_table(
    table: Mapping | Sequence,
    *,
    states: Iterable[Hashable] | None = None,
    actions: Iterable[Hashable] | None = None,
    initial: Iterable[float] | None = None,
    end: Hashable = "done",
) -> TableArrays:
    """Read a table of outcomes into arrays.

    Args:
        table: `table[s][a]` is a list of outcomes (probability, next state, reward, done). Both levels are mappings, whose
            keys are the labels, or sequences, whose labels are 0, 1, …; a next state is one of these labels. An action
            that is missing or has no outcomes is not feasible there. Outcomes of probability zero are left out.
        states: other labels for the states, in the table's order.
        actions: other labels for the actions, in the order of their first appearance.
        initial: probability of starting in each state, in the table's order. Where it is zero, a state that only outcomes
            with `done` enter is terminal, even if the table lists what could be done there.
        end: label of the state after the end, which is appended where it is needed.

    Raises:
        ValueError: an empty table, an outcome that is not four such values, probabilities outside [0, 1] or not summing to
            one within 1e-6, a reward that is not finite, an unknown next state, no feasible action anywhere, or labels
            that do not fit. The message names the state and the action.

    Example:
        >>> from chainrule.graphs.tables import read_table
        >>> game = {"play": {"throw": [(0.5, "play", 0, False), (0.5, "play", 6, True)], "leave": [(1, "play", 2, True)]}}
        >>> arrays = read_table(game)
        >>> arrays.states, arrays.terminal.tolist(), arrays.rewards[0].tolist()
        (('play', 'done'), [False, True], [[0.0, 6.0], [2.0, 0.0]])
    """
    rows = {state: _entries(row, f"state {state!r}") for state, row in _entries(table, "the table").items()}
    if not rows:
        raise ValueError("the table is empty; it needs at least one state")
    places = {state: i for i, state in enumerate(rows)}
    columns: dict[Hashable, int] = {}
    for row in rows.values():
        for action in row:
            columns.setdefault(action, len(columns))
    outcomes = {
        (s, columns[action]): found
        for s, (state, row) in enumerate(rows.items())
        for action, listed in row.items()
        if (found := _outcomes(listed, places, f"state {state!r}, action {action!r}"))
    }
    start = _check_initial(initial, len(rows))
    terminal = _terminal(outcomes, len(rows), start)
    outcomes = {pair: row for pair, row in outcomes.items() if not terminal[pair[0]]}
    if not outcomes:
        raise ValueError("no state has a feasible action; there is nothing to decide")
    names = _labels("state", states, places)
    if any(o.done and not terminal[o.target] for row in outcomes.values() for o in row):
        if end in names:
            raise ValueError(f"there is a state {end!r} already; give the state after the end another name with end=…")
        names, terminal = (*names, end), np.append(terminal, True)
        start = None if start is None else np.append(start, 0.0)
    return _arrays(outcomes, terminal, start, names, _labels("action", actions, columns))


def _entries(level, what: str) -> dict:
    """Return the entries of one level of the table by their labels."""
    if isinstance(level, Mapping):
        return dict(level)
    if isinstance(level, Sequence) and not isinstance(level, str):
        return dict(enumerate(level))
    raise ValueError(f"{what} must be a mapping or a sequence, got {type(level).__name__}")


def _outcomes(listed, places, name: str) -> list[_Outcome]:
    """Check the outcomes of one state and action, and leave out those that cannot happen."""
    if isinstance(listed, str | Mapping) or not isinstance(listed, Iterable):
        raise ValueError(
            f"{name} must be a list of (probability, next state, reward, done), got {type(listed).__name__}"
        )
    found = [_outcome(entry, places, f"{name}: outcome {i}") for i, entry in enumerate(listed)]
    total = math.fsum(o.probability for o in found)
    if found and abs(total - 1) > _TOLERANCE:
        raise ValueError(f"{name}: probabilities sum to {total:.8g}, not 1")
    return [o for o in found if o.probability > 0]


def _outcome(entry, places, name: str) -> _Outcome:
    if isinstance(entry, str) or not isinstance(entry, Sequence) or len(entry) != 4:
        raise ValueError(f"{name} is {entry!r}; wanted (probability, next state, reward, done)")
    probability, state, reward, done = entry
    for value, what in ((probability, "probability"), (reward, "reward")):
        if not isinstance(value, int | float | np.number | np.bool_) or not math.isfinite(value):
            raise ValueError(f"{name} has {what} {value!r}; wanted a finite number")
    if not 0 <= probability <= 1 + _TOLERANCE:
        raise ValueError(f"{name} has probability {probability!r}, outside [0, 1]")
    if not isinstance(done, bool | np.bool_):
        raise ValueError(f"{name} has done {done!r}; wanted True or False, whether the episode ends")
    try:
        target = lookup("next state", state, places)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    return _Outcome(float(probability), target, float(reward), bool(done))


def _check_initial(initial, num_states) -> np.ndarray | None:
    if initial is None:
        return None
    probs = np.asarray(list(initial), float)
    if probs.shape != (num_states,) or not (probs >= 0).all() or abs(probs.sum() - 1) > _TOLERANCE:
        raise ValueError(f"initial must be {num_states} probabilities that sum to 1, got {probs}")
    return probs


def _terminal(outcomes, num_states, initial) -> np.ndarray:
    """Return which states end the process by themselves."""
    live = np.zeros(num_states, bool)  # something can still happen or be earned
    entered, goes_on = np.zeros(num_states, bool), np.zeros(num_states, bool)
    for (state, _), row in outcomes.items():
        for outcome in row:
            live[state] |= outcome.target != state or not outcome.done or outcome.reward != 0
            entered[outcome.target] |= outcome.target != state
            goes_on[outcome.target] |= not outcome.done
    if initial is None:
        return ~live
    return ~live | (entered & ~goes_on & (initial == 0))


def _labels(kind: str, given, known) -> tuple[Hashable, ...]:
    if given is None:
        return tuple(known)
    labels = tuple(given)
    if len(labels) != len(known):
        raise ValueError(f"got {len(labels)} {kind} labels; the table has {len(known)} {kind}s")
    if (twice := first_duplicate(labels)) is not None:
        raise ValueError(f"{kind} label {twice!r} is there twice")
    return labels


def _arrays(outcomes, terminal, initial, states, actions) -> TableArrays:
    """Pad the outcomes, those with the same next state and reward added up."""
    after = len(states) - 1
    merged = {}
    for pair, row in outcomes.items():
        into = merged[pair] = {}
        for o in row:
            key = (after if o.done and not terminal[o.target] else o.target, o.reward)
            into[key] = into.get(key, 0.0) + o.probability
    shape = (len(states), len(actions))
    width = max(map(len, merged.values()))
    successors = np.zeros((*shape, width), np.int32)
    probs, rewards, mask = np.zeros((*shape, width)), np.zeros((*shape, width)), np.zeros(shape, bool)
    for pair, row in merged.items():
        targets, paid = zip(*row, strict=True)
        successors[pair][: len(row)], rewards[pair][: len(row)] = targets, paid
        probs[pair][: len(row)] = list(row.values())
        mask[pair] = True
    return TableArrays(successors, probs, rewards, mask, terminal, initial, states, actions)
