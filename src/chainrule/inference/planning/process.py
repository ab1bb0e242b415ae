"""A decision process as matrices on the host, and its backup.

    q(s, a) = r(s, a) + γ Σ_{s'} p(s' | s, a) v(s')

Row s·A + a of the matrix is the distribution p(· | s, a): padded successors are a CSR matrix as they lie in memory, so
nothing is copied. The product with v is cut into one piece for each core; SciPy lets go of the interpreter's lock in it.
"""

import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, cached_property
from typing import Any

import numpy as np
from scipy import sparse

from ...forms.transitions import Transitions, row_tolerance
from . import reach
from .bounds import Bounds, macqueen, rounding, widened

_NEAR = 131_072  # numbers that are still in the cache after they have been read once
_LARGE = 4_000_000  # entries of a piece at most
_PARALLEL = 1_000_000  # entries from which a product is worth a second core


class Chain:
    """What a policy makes of a process: `matrix` (S, S), `reward` (S,), and the most `terms` that either is a sum of."""

    def __init__(self, matrix: Any, reward: np.ndarray, terms: int = 0):
        self.matrix, self.reward, self.terms = matrix, reward, terms
        self._pieces = _cut(matrix)

    def expect(self, v: np.ndarray) -> np.ndarray:
        """Σ_{s'} p(s' | s) v(s'), shape (S,)."""
        return _product(self._pieces, v)


class Process:
    """Transitions in float64, rows by state and then by action.

    Attributes:
        matrix: (S·A, S), or (U, S) with `rows`; CSR, or a dense array.
        rows: which row (s, a) has, shape (S, A), or None.
        reward: (S, A), −inf where an action is infeasible; 0 for all feasible ones of states that end the process.
        mask: where an action is feasible; terminal states, which have none, are given the first one.
        ends: True where the process ends: terminal states, and states that cannot be left and pay nothing.
        discount: γ.

    Args:
        form: the transitions.
        idle_ends: False leaves states that cannot be left and pay nothing going on like all others.
        normalised: divide rows by their sums, which makes a copy; otherwise they are taken as they are.
    """

    matrix: Any

    def __init__(self, form: Transitions, *, idle_ends: bool = True, normalised: bool = False):
        probs = np.asarray(form.probabilities).astype(np.float64, copy=False)
        if normalised:
            sums = probs.sum(axis=-1, keepdims=True)
            probs = probs / np.where(sums > 0, sums, 1)
        self.num_states, self.num_actions = form.num_states, form.num_actions
        self.discount = float(form.discount)
        self.rows = None if form.rows is None else np.asarray(form.rows)
        if form.successors is None:
            self.matrix = _thin(probs.reshape(-1, self.num_states))
        else:
            width = probs.shape[-1]
            start = np.arange(0, probs.size + 1, width, dtype=np.int32 if probs.size < 2**31 else np.int64)
            successors = np.asarray(form.successors).astype(start.dtype, copy=False).reshape(-1)
            self.matrix = sparse.csr_array(
                (probs.reshape(-1), successors, start), shape=(len(start) - 1, self.num_states)
            )
        self.pieces = _cut(self.matrix)
        self._sums: np.ndarray | None = None
        self._tolerance = row_tolerance(form.probabilities.dtype)
        self.terminal, feasible = np.asarray(form.terminal), np.asarray(form.mask)
        if form.outcome_rewards is None:
            self.reward = paid = np.asarray(form.rewards).astype(np.float64, copy=False)
        else:  # their sums may have been rounded to less than float64, and lost digits where they cancel
            outcomes = np.asarray(form.outcome_rewards).astype(np.float64, copy=False)
            each = probs if self.rows is None else probs[self.rows]
            self.reward = np.einsum("sab,sab->sa", each, outcomes)
            paid = np.where(each > 0, np.abs(outcomes), 0).max(axis=-1)
        self.ends = self.terminal | self._idle(feasible) if idle_ends else self.terminal
        self._ended = np.flatnonzero(self.ends)
        self.mask = feasible
        if not feasible.all():
            over = np.flatnonzero(self.terminal)
            self.mask, self.reward = feasible.copy(), np.where(feasible, self.reward, -np.inf)
            self.mask[over] = np.arange(self.num_actions) == 0
            self.reward[over] = np.where(self.mask[over], 0, -np.inf)
        # the largest number of terms and the largest reward bound what rounding can do
        self.width = probs.shape[-1]
        self.terms = 2 * self.width if normalised else self.width
        self.largest_reward = max(
            float(paid.max(initial=0, where=feasible)), -float(paid.min(initial=0, where=feasible))
        )

    def row(self, states, actions) -> np.ndarray:
        """Rows of the matrix that belong to states and actions."""
        return states * self.num_actions + actions if self.rows is None else self.rows[states, actions]

    def expect(self, v: np.ndarray) -> np.ndarray:
        """Σ_{s'} p(s' | s, a) v(s'), shape (S, A); of no meaning where the process ends or the action is infeasible."""
        if self._sums is None and not sparse.issparse(self.matrix):
            found, self._sums = _product_and_sums(self.matrix, v)
        else:
            found = _product(self.pieces, v)
        return found.reshape(self.num_states, self.num_actions) if self.rows is None else found[self.rows]

    def action_values(self, v: np.ndarray) -> np.ndarray:
        """Q (S, A), −inf where infeasible."""
        q = self.expect(v)
        q *= self.discount
        q += self.reward
        if len(self._ended):
            q[self._ended] = self.reward[self._ended]
        return q

    def action_values_of(self, rows: np.ndarray, v: np.ndarray) -> np.ndarray:
        """Q of pairs s·A + a, where (s, a) has a row of its own, shape (rows,)."""
        if self._uniform:
            probs, successors = (x.reshape(-1, self.width)[rows] for x in (self.matrix.data, self.matrix.indices))
            expected = np.einsum("rb,rb->r", probs, v[successors])
        else:
            expected = self.matrix[rows] @ v
        reward = self.reward.reshape(-1)[rows]
        return np.where(self.ends[rows // self.num_actions], reward, reward + self.discount * expected)

    def block(self, states: slice) -> Callable[[np.ndarray], np.ndarray]:
        """The backup of consecutive states alone: a function from all values to their Q."""
        rows = slice(states.start * self.num_actions, states.stop * self.num_actions)
        matrix, reward, ended = self.matrix[rows], self.reward[states], np.flatnonzero(self.ends[states])

        def action_values(v):
            q = reward + self.discount * (matrix @ v).reshape(reward.shape)
            q[ended] = reward[ended]
            return q

        return action_values

    def follow(self, policy: np.ndarray) -> Chain:
        """The chain under a deterministic policy (S,). Rows and rewards of states that end the process are zero."""
        states = np.arange(self.num_states)
        reward = self.reward[states, policy]
        reward[self._ended] = 0
        chosen = self.row(states, policy)
        if not sparse.issparse(self.matrix):
            matrix = self.matrix[chosen]
            matrix[self._ended] = 0
            return Chain(matrix, reward, self.terms)
        if self._uniform:
            width = self.width
            probs = self.matrix.data.reshape(-1, width)[chosen]
            probs[self._ended] = 0
            successors = self.matrix.indices.reshape(-1, width)[chosen]
            start = np.arange(0, probs.size + 1, width, dtype=self.matrix.indptr.dtype)
            shape = (self.num_states, self.num_states)
            matrix = sparse.csr_array((probs.reshape(-1), successors.reshape(-1), start), shape=shape)
            return Chain(matrix, reward, self.terms)
        matrix: Any = self.matrix[chosen]
        matrix.data[np.repeat(self.ends, np.diff(matrix.indptr))] = 0
        return Chain(matrix, reward, self.terms)

    def follow_on(self, chain: Chain, policy: np.ndarray, changed: np.ndarray) -> Chain:
        """The chain under a policy that differs from the chain's in the states `changed`; the chain is changed in place."""
        if 2 * len(changed) > self.num_states or (sparse.issparse(self.matrix) and not self._uniform):
            return self.follow(policy)
        chosen = self.row(changed, policy[changed])
        chain.reward[changed] = self.reward[changed, policy[changed]]
        if not sparse.issparse(self.matrix):
            chain.matrix[changed] = self.matrix[chosen]
            return chain
        for ours, whole in ((chain.matrix.data, self.matrix.data), (chain.matrix.indices, self.matrix.indices)):
            ours.reshape(-1, self.width)[changed] = whole.reshape(-1, self.width)[chosen]
        return chain

    def mix(self, policy: np.ndarray) -> Chain:
        """The chain under a stochastic policy, `policy[s, a]` the probability of a in s."""
        weight = np.where(self.mask, policy, 0)
        states, actions = np.nonzero(weight)
        blend: Any = sparse.csr_array(
            (weight[states, actions] * ~self.ends[states], (states, self.row(states, actions))),
            shape=(self.num_states, self.matrix.shape[0]),
        )
        matrix = blend @ self.matrix
        return Chain(matrix, (weight * np.where(self.mask, self.reward, 0)).sum(1), self.num_actions * (self.terms + 1))

    def any_policy(self) -> np.ndarray:
        """The first feasible action of each state."""
        return self.mask.argmax(axis=1)

    def steps_to_end(self) -> np.ndarray:
        """The fewest steps from each state to the end, (S,), as many as there are states where it is out of reach."""
        far = reach.steps_to(self, self._ended)
        return np.where(far < 0, self.num_states, far)

    def support(self) -> Any:
        """Which state can follow which under any feasible action, shape (S, S), as ones."""
        used, part = self.mask & ~self.ends[:, None], sparse.csr_array(self.matrix)
        if self.rows is None:
            row = np.repeat(np.arange(used.size, dtype=np.int32), np.diff(part.indptr))
            owner, found = row // self.num_actions, used.reshape(-1)[row] & (part.data > 0)
        else:
            states, actions = np.nonzero(used)
            part = part[self.rows[states, actions]]
            owner, found = np.repeat(states, np.diff(part.indptr)), part.data > 0
        pairs = (owner[found], part.indices[found])
        graph = sparse.coo_array((np.ones(len(pairs[0]), np.int8), pairs), shape=(self.num_states,) * 2).tocsr()
        graph.data[:] = 1
        return graph

    @cached_property
    def factors(self) -> tuple[float, float]:
        """The least and the most that a backup makes of a constant added to all values: see `bounds`."""
        sums = self._sums
        if sums is None:
            uniform = self._uniform
            sums = (
                self.matrix.data.reshape(-1, self.width) @ np.ones(self.width) if uniform else self.matrix.sum(axis=1)
            )
        if self.rows is not None or len(self._ended) or not self.mask.all():
            used = self.mask & ~self.ends[:, None]
            sums = sums[used.reshape(-1)] if self.rows is None else sums[self.rows[used]]
        low, high = (float(sums.min()), float(sums.max())) if len(sums) else (1.0, 1.0)
        return widened(0.0 if len(self._ended) else self.discount * low, self.discount * high, self.width)

    def _row_sums(self) -> np.ndarray:
        return (
            self.matrix.data.reshape(-1, self.width) @ np.ones(self.width) if self._uniform else self.matrix.sum(axis=1)
        )

    def require_contraction(self):
        """Refuse a discount that rows make too little of.

        Raises:
            ValueError: γ times the sum of a row is not below 1, so that values are not bounded.
        """
        if self.discount * (1 + 2 * self._tolerance) < 1:  # so that the sums can wait for the first product
            return
        if not (high := self.factors[1]) < 1:
            raise ValueError(
                f"a row of probabilities sums to {high / self.discount:.9g}, which a discount of {self.discount:.9g} does "
                "not bring below 1, so that values are not bounded: divide each row by its sum, or lower the discount"
            )

    def bounds(self, change: np.ndarray, values: np.ndarray, chain: Chain | None = None) -> Bounds:
        """Bounds on the optimum from `change` = T v − v at `values` = T v; or on the worth of a chain, from its backup."""
        low, high = float(change.min()), float(change.max())
        # the v that was backed up is at most as far from T v as the change is large
        largest = max(-float(values.min()), float(values.max())) + max(-low, high, 0.0)
        factors, terms = self.factors, self.terms
        if chain is not None:
            sums, terms = np.asarray(chain.matrix.sum(axis=1)).reshape(-1)[~self.ends], chain.terms
            least = 0.0 if len(self._ended) else self.discount * float(sums.min(initial=1))
            factors = widened(least, self.discount * float(sums.max(initial=0)), terms)
        if len(self._ended):
            low, high = min(low, 0.0), max(high, 0.0)
        return macqueen(low, high, factors=factors, error=rounding(terms, self.largest_reward, self.discount, largest))

    def rounding(self, values: np.ndarray) -> float:
        """How far a computed backup of values can be from the exact one."""
        largest = max(-float(values.min()), float(values.max()))
        return rounding(self.terms, self.largest_reward, self.discount, largest)

    @property
    def _uniform(self) -> bool:
        """Whether the rows are equally long in memory."""
        return sparse.issparse(self.matrix) and self.matrix.nnz == self.matrix.shape[0] * self.width

    def _idle(self, mask: np.ndarray) -> np.ndarray:
        """States whose every action pays nothing and stays."""
        candidates = np.flatnonzero(~(mask & (self.reward != 0)).any(axis=1))
        idle = np.zeros(self.num_states, bool)
        if len(candidates) == 0:
            return idle
        states = np.repeat(candidates, self.num_actions)
        actions = np.tile(np.arange(self.num_actions), len(candidates))
        part = self.matrix[self.row(states, actions)]
        if sparse.issparse(part):
            owner = np.repeat(np.arange(len(states)), np.diff(part.indptr))
            moves = np.bincount(owner, (part.indices != states[owner]) & (part.data > 0), minlength=len(states)) > 0
        else:
            others = part.copy()
            others[np.arange(len(states)), states] = 0
            moves = (others > 0).any(axis=1)
        idle[candidates] = ~(moves.reshape(len(candidates), -1) & mask[candidates]).any(axis=1)
        return idle


def _thin(dense: np.ndarray) -> Any:
    """A dense matrix as it is, or as CSR where few entries are not zero."""
    some = dense[:: max(1, len(dense) // 64)]  # a look at a few rows tells whether to look at all of them
    if dense.size > 10_000 and np.count_nonzero(some) < 0.3 * some.size and np.count_nonzero(dense) < 0.2 * dense.size:
        return sparse.csr_array(dense)
    return dense


def _cut(matrix) -> list:
    """Pieces that share memory with the whole: one or more for each core, so small that products need little room."""
    cores = cores_at_hand()
    if not sparse.issparse(matrix) or matrix.nnz < _PARALLEL or cores == 1:
        return [matrix]  # dense products use every core by themselves
    count = cores * -(-matrix.nnz // (cores * _LARGE))
    edges = np.searchsorted(matrix.indptr, np.linspace(0, matrix.nnz, count + 1))
    edges[0], edges[-1] = 0, matrix.shape[0]
    pieces = []
    for low, high in itertools.pairwise(edges):
        start, stop = matrix.indptr[low], matrix.indptr[high]
        ends = matrix.indptr[: high - low + 1]  # of rows that are equally long, for every piece
        if not (len(ends) and ends[-1] == stop - start and np.array_equal(ends, matrix.indptr[low : high + 1] - start)):
            ends = matrix.indptr[low : high + 1] - start
        piece = sparse.csr_array((high - low, matrix.shape[1]))
        # set one by one, since the constructor copies what is a small part of something larger
        piece.data, piece.indices, piece.indptr = matrix.data[start:stop], matrix.indices[start:stop], ends
        pieces.append(piece)
    return pieces


def _product(pieces: list, v: np.ndarray) -> np.ndarray:
    if len(pieces) == 1:
        return pieces[0] @ v
    edges = np.cumsum([0, *(piece.shape[0] for piece in pieces)])
    whole = np.empty(edges[-1])

    def run(n: int):
        whole[edges[n] : edges[n + 1]] = pieces[n] @ v

    for _ in _pool().map(run, range(len(pieces))):
        pass
    return whole


def _product_and_sums(matrix: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """P v, and the sums of rows, piece by piece, so that what is read for the one is in the cache for the other."""
    found, sums, ones = np.empty(len(matrix)), np.empty(len(matrix)), np.ones(matrix.shape[1])
    step = max(1, _NEAR // matrix.shape[1])

    def run(part: slice):
        for start in range(part.start, part.stop, step):
            piece = slice(start, min(start + step, part.stop))
            np.dot(matrix[piece], v, out=found[piece])
            np.dot(matrix[piece], ones, out=sums[piece])

    cores = cores_at_hand() if matrix.size >= _PARALLEL else 1
    parts = [slice(low, high) for low, high in itertools.pairwise(np.linspace(0, len(matrix), cores + 1).astype(int))]
    waiting = [_pool().submit(run, part) for part in parts[1:]]
    run(parts[0])
    for done in waiting:
        done.result()
    return found, sums


@cache
def cores_at_hand() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(cores_at_hand(), thread_name_prefix="chainrule")
