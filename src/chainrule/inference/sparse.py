"""Products with sparse matrices, by gathers alone.

    (M D)[r] = Σ_c M[r, c] · D[c]          with rows D[c] of a dense array

Rows of M are grouped by how many entries they have. A group of n rows with w entries each is w gathers of n rows of D,
added up eight at a time; XLA fuses each gather with its addition, and the array of all gathered rows, (n, w, …), is never
there. Rows with many entries are cut into chunks, which a second table adds up. The gradient Mᵀ G is the same thing with
the table of the transpose: no scatter anywhere, so sums have one order and float32 keeps its digits.
"""

import functools
import operator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int
from scipy import sparse

# Sizes of groups: rows are padded to the next of them. Those above TOGETHER are multiples of it, and loops: written out,
# 32 gathers are no faster and take five times as long to compile.
WIDTHS = (1, 2, 4, 8, 16, 24, 32, 64, 128)
CHUNK = WIDTHS[-1]
TOGETHER = 8
LANES = 8  # float32 numbers in a vector register of most processors


class Gathers(eqx.Module):
    """A sparse matrix as tables of gathers.

    Attributes:
        columns: for each group its columns, shape (entry, row of the group); padding points past the last column, or at
            one that holds nothing.
        values: for each group its values, same shape; None where all entries are one.
        chunks: the table that adds up the chunks of long rows, or None.
        place: where the sum of each row is found: in the groups one after the other, then in `chunks`; shape (row,).
    """

    columns: tuple[Int[np.ndarray, "entry row"], ...]
    values: tuple[Float[np.ndarray, "entry row"], ...] | None
    chunks: "Gathers | None"
    place: Int[np.ndarray, " row"]

    @classmethod
    def of(cls, matrix: Any, dtype: Any = np.float32, *, nothing: int | None = None) -> "Gathers":
        """Tables of a SciPy matrix in CSR form; host work, linear in its entries. Padding points at column `nothing`."""
        begin = matrix.indptr.astype(np.int64)
        count = np.diff(begin)
        binary = bool((matrix.data == 1).all())
        padding = matrix.shape[1] if nothing is None else nothing

        pieces = np.maximum(-(-count // CHUNK), 1)
        owner = np.repeat(np.arange(len(count)), pieces)
        first = np.cumsum(pieces) - pieces
        begins = begin[owner] + CHUNK * (np.arange(len(owner)) - first[owner])
        ends = np.minimum(begins + CHUNK, begin[owner + 1])
        width = np.array(WIDTHS)[np.searchsorted(WIDTHS, np.maximum(ends - begins, 1))]

        columns, values, place, filled = [], [], np.empty(len(owner), np.int64), 0
        last = max(len(matrix.indices) - 1, 0)
        for size in WIDTHS:
            chosen = np.flatnonzero(width == size)
            if not len(chosen):
                continue
            at = begins[chosen] + np.arange(size)[:, None]
            real = at < ends[chosen]
            at = np.minimum(at, last)
            found = matrix.indices[at] if len(matrix.indices) else np.zeros(at.shape, np.int32)
            columns.append(np.where(real, found, padding).astype(np.int32))
            if not binary:
                values.append(np.where(real, matrix.data[at], 0).astype(dtype))
            place[chosen] = filled + np.arange(len(chosen))
            filled += len(chosen)

        where, chunks = place[first], None
        long = np.flatnonzero(pieces > 1)
        if len(long):
            parts = [place[first[row] : first[row] + pieces[row]] for row in long]
            edges = np.concatenate([[0], np.cumsum(pieces[long])])
            joined = np.concatenate(parts)
            chunks = cls.of(sparse.csr_matrix((np.ones(len(joined)), joined, edges), shape=(len(long), filled)), dtype)
            where[long] = filled + np.arange(len(long))
        return cls(tuple(columns), None if binary else tuple(values), chunks, where.astype(np.int32))

    def __matmul__(self, dense: Float[Array, "column *rest"]) -> Float[Array, "row *rest"]:
        """The product."""
        return _product(self, dense)


def _product(table: Gathers, dense):
    size = dense.shape[1:]
    odd = _odd(size[-1]) if len(size) == 1 else 0
    dense = jnp.pad(dense, [(0, 1), *[(0, 0)] * (len(size) - 1), (0, odd)][: dense.ndim])  # padding points at zeros
    found = _gathered(table, dense)
    return found[:, : size[-1]] if odd else found


def _odd(size: int) -> int:
    """What rows lack to be whole vector registers, which are a third faster."""
    return -size % LANES if size > LANES else 0


def _gathered(table: Gathers, dense):
    """The product with a dense array that has its row of zeros already."""
    if not table.columns:  # a matrix without rows has no groups
        return jnp.zeros((0, *dense.shape[1:]), dense.dtype)
    groups = zip(table.columns, [None] * len(table.columns) if table.values is None else table.values, strict=True)
    found = jnp.concatenate([_summed(dense, columns, values) for columns, values in groups])
    if table.chunks is not None:
        found = jnp.concatenate([found, _product(table.chunks, found)])
    return found[jnp.asarray(table.place)]


def _summed(dense, columns, values):
    """Σ_w values[w] · dense[columns[w]], shape (row, …)."""

    def add(picked):
        terms = [dense[row] for row in picked[0]]
        if values is not None:
            extra = [1] * (dense.ndim - 1)
            terms = [t * v.reshape(-1, *extra).astype(dense.dtype) for t, v in zip(terms, picked[1], strict=True)]
        return functools.reduce(operator.add, terms)

    picked = tuple(jnp.asarray(x) for x in (columns, values) if x is not None)
    if len(columns) <= TOGETHER:
        return add(picked)
    picked = jax.tree.map(lambda x: x.reshape(-1, TOGETHER, x.shape[1]), picked)
    nothing = jnp.zeros((columns.shape[1], *dense.shape[1:]), dense.dtype)
    return lax.scan(lambda total, few: (total + add(few), None), nothing, picked)[0]


class SparseMap(eqx.Module):
    """Linear map θ ↦ M W(θ) for a sparse M and a dense matrix W whose entries are the parameters, or zero.

    Rows of M that have much in common can share it: with M = R [I; B], the rows of B are sums of rows of W that are made
    once for all rows of R that want them.

    Attributes:
        matrix, transposed: M and Mᵀ, or R and Rᵀ.
        bundles: B and Bᵀ, or None.
        parameter: which parameter stands at each entry of W, shape (column, label); as many as there are parameters
            where the entry is zero.
        entry: at which entry of W, read row by row, each parameter stands, shape (parameter,).

    Example:
        >>> import jax.numpy as jnp, numpy as np
        >>> from scipy import sparse
        >>> from chainrule.inference.sparse import SparseMap
        >>> matrix = sparse.csr_matrix(np.array([[1., 1., 0.], [0., 1., 0.]]))
        >>> only = SparseMap.of(matrix, column=np.array([0, 1, 1]), label=np.array([0, 0, 1]), num_labels=2)
        >>> only(jnp.array([1., 10., 100.])).tolist()
        [[11.0, 100.0], [10.0, 100.0]]
    """

    matrix: Gathers
    transposed: Gathers
    bundles: tuple[Gathers, Gathers] | None
    parameter: Int[np.ndarray, "column label"]
    entry: Int[np.ndarray, " parameter"]
    num_labels: int = eqx.field(static=True)

    @classmethod
    def of(
        cls, matrix: Any, column, label, num_labels: int, dtype: Any = np.float32, *, bundles: Any = None
    ) -> "SparseMap":
        """The map whose parameter p stands at (column[p], label[p]); with `bundles`, B, `matrix` is R."""
        columns = matrix.shape[1] if bundles is None else bundles.shape[1]
        # a column of zeros, which padding points at, stands between those of W and their bundles
        width = num_labels + _odd(num_labels)
        entry = column.astype(np.int64) * width + label
        parameter = np.full((columns + 1) * width, len(entry), np.int32)
        parameter[entry] = np.arange(len(entry))
        both = None
        if bundles is not None:
            matrix = _shifted(matrix, columns)
            table = Gathers.of(bundles, dtype, nothing=columns)
            back = sparse.hstack([sparse.csr_matrix((columns, columns + 1)), bundles.T], format="csr")
            both = (table, Gathers.of(back, dtype, nothing=columns))
        table, transposed = Gathers.of(matrix, dtype, nothing=columns), Gathers.of(matrix.T.tocsr(), dtype)
        return cls(table, transposed, both, parameter.reshape(-1, width), entry.astype(np.int32), num_labels)

    def __call__(self, theta: Float[Array, " parameter"]) -> Float[Array, "row label"]:
        """M W(θ)."""
        return _apply(self, theta)


def _shifted(matrix, columns: int):
    """The same matrix with an empty column before column `columns`."""
    indices = matrix.indices + (matrix.indices >= columns)
    return sparse.csr_matrix((matrix.data, indices, matrix.indptr), shape=(matrix.shape[0], matrix.shape[1] + 1))


@jax.custom_vjp
def _apply(table: SparseMap, theta):
    dense = jnp.concatenate([theta, jnp.zeros(1, theta.dtype)])[jnp.asarray(table.parameter)]
    if table.bundles is not None:
        dense = jnp.concatenate([dense, _gathered(table.bundles[0], dense)])
    return _apart(table.matrix, dense)[:, : table.num_labels]


def _apply_forward(table, theta):
    return _apply(table, theta), table


def _apply_backward(table, gradient):
    slope = _apart(table.transposed, jnp.pad(gradient, ((0, 1), (0, _odd(table.num_labels)))))
    if table.bundles is not None:
        columns = len(table.parameter) - 1
        slope = slope[:columns] + _gathered(table.bundles[1], slope)
    return None, slope.reshape(-1)[jnp.asarray(table.entry)]


_apply.defvjp(_apply_forward, _apply_backward)


def _apart(table: Gathers, dense):
    """The product as a program of its own, which begins and ends in memory.

    XLA on CPU fuses what comes before and after into the gathers, such as a transposition of all rows, and then does them
    one number at a time and in a bad order. It does not fuse across a condition; this one always holds, but XLA cannot
    know, since it depends on data. (An optimisation barrier is gone by the time that it fuses.)
    """
    if not table.columns:
        return _gathered(table, dense)
    shape = jax.eval_shape(_gathered, table, dense)
    always = jnp.asarray(table.columns[0])[0, 0] >= 0
    return lax.cond(always, lambda: _gathered(table, dense), lambda: jnp.zeros(shape.shape, shape.dtype))
