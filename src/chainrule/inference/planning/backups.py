"""Backups one after the other, which leave out what cannot be the best any more.

    q'(s, a)  ≤  q(s, a) + γκ max_s' { v'(s') − v(s') },     q' being of v', q of v, and κ the largest sum of a row.

Once v changes by nearly the same everywhere, this is below what the policy's own action is worth for nearly all others, and
tells that they are not the best (MacQueen 1967, A test for suboptimal actions). The maximum is that of a whole backup, and
so are the bounds that rest on it.
"""

import numpy as np

from .process import Chain, Process

_WIDE = 8  # entries of a row from which picking rows is cheaper than multiplying all
_SHARE = 0.1  # of rows up to which it is
_PIECE = 65_536  # rows that are picked at once


class Backups:
    """Q of values that follow one another.

    Attributes:
        whole: whether the last Q is computed everywhere; where it is not, it is an upper bound below the maximum.
    """

    def __init__(self, process: Process):
        self._process, self.whole = process, False
        self._picks = process.rows is None and process.width >= _WIDE
        self._q: np.ndarray | None = None
        self._v = np.zeros(0)

    def __call__(self, v: np.ndarray, policy: np.ndarray, chain: Chain | None) -> np.ndarray:
        """Q (S, A), which later calls overwrite.

        Args:
            v: values.
            policy: actions, most of which may well be the best.
            chain: the chain of the policy; None asks for a Q that is computed everywhere.
        """
        q, self._q = self._q, None
        self.whole = chain is None or q is None or not self._picked(q, v, policy, chain)
        if self.whole or q is None:
            del q  # so that there is one Q in memory, not two
            q = self._process.action_values(v)
        if self._picks:
            self._q, self._v = q, v.copy()
        return q

    def _picked(self, q: np.ndarray, v: np.ndarray, policy: np.ndarray, chain: Chain) -> bool:
        """Make q that of v where it may be the best, and tell whether that is in few places; if not, it is of no use."""
        process, states = self._process, np.arange(len(v))
        own = chain.expect(v)
        own *= process.discount
        own += chain.reward
        high = float((v - self._v).max())
        q += process.factors[high > 0] * high
        q[states, policy] = -np.inf
        found = q >= (own - 8 * process.rounding(v))[:, None]
        if np.count_nonzero(found) > _SHARE * q.size:
            return False
        rows = np.flatnonzero(found)
        for start in range(0, len(rows), _PIECE):
            some = rows[start : start + _PIECE]
            q.reshape(-1)[some] = process.action_values_of(some, v)
        q[states, policy] = own
        return True
