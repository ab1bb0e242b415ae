"""Recurrent layers: an RNN, GRU or LSTM cell walks along a sequence, in one direction or in both.

Every cell is an affine map of input and state, followed by a gate that works on each unit alone:

    zₜ = W xₜ + U hₜ₋₁ + b        (hₜ, …) = gate(zₜ, (hₜ₋₁, …))

W xₜ + b is one matrix product for all steps. The loop holds only U hₜ₋₁ and the gate, and its derivative is a loop of
the same shape: a small change of z and U changes the states by a *linear* recurrence driven by dzₜ + dU hₜ₋₁. Stated so,
dU meets all steps in one product outside the loop, and so does its transpose, the gradient, which automatic
differentiation of the plain loop would instead add up outer product by outer product.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Key

State = tuple[Float[Array, " hidden"], ...]


class RNNCell(eqx.Module):
    """A step of Elman's recurrent network, h' = tanh(W x + U h + b); beside `eqx.nn.GRUCell` and `eqx.nn.LSTMCell`.

    Args:
        input_size: number of features of x.
        hidden_size: number of units of h.
        dtype: of the parameters; JAX's default floating dtype if None.
        key: the parameters are drawn uniformly from ±1/√hidden_size.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from chainrule import neural
        >>> cell = neural.RNNCell(3, 4, key=jax.random.key(0))
        >>> cell(jnp.ones(3), jnp.zeros(4)).shape
        (4,)

    Reference: Elman, "Finding Structure in Time", Cognitive Science 1990.
    """

    weight_ih: Float[Array, "hidden feature"]
    weight_hh: Float[Array, "hidden hidden"]
    bias: Float[Array, " hidden"]
    input_size: int = eqx.field(static=True)
    hidden_size: int = eqx.field(static=True)

    def __init__(self, input_size: int, hidden_size: int, *, dtype=None, key: Key[Array, ""]):
        shapes = (hidden_size, input_size), (hidden_size, hidden_size), (hidden_size,)
        dtype = jnp.result_type(float) if dtype is None else dtype
        limit = 1 / math.sqrt(hidden_size)
        self.weight_ih, self.weight_hh, self.bias = (
            jax.random.uniform(k, shape, dtype, -limit, limit)
            for k, shape in zip(jax.random.split(key, 3), shapes, strict=True)
        )
        self.input_size = input_size
        self.hidden_size = hidden_size

    def __call__(self, input: Float[Array, " feature"], hidden: Float[Array, " hidden"], *, key=None):
        """Return the next hidden state."""
        return jnp.tanh(self.weight_ih @ input + self.weight_hh @ hidden + self.bias)


Cell = RNNCell | eqx.nn.GRUCell | eqx.nn.LSTMCell


class Recurrent(eqx.Module):
    """Layers of recurrent cells along a sequence: (time, feature) → (time, hidden), or (time, 2 · hidden) both ways.

    Written for one sequence; `jax.vmap` makes it a batch, whose steps are then one matrix product for all sequences.
    States begin at zero. Each layer reads the outputs of the one below; in both directions the outputs of the forward
    cell come first.

    Args:
        cell: the kind of cell: `neural.RNNCell`, `eqx.nn.GRUCell` or `eqx.nn.LSTMCell`.
        input_size: number of features.
        hidden_size: number of units per direction.
        layers: number of layers, ≥ 1.
        bidirectional: whether a second cell per layer walks from the end to the beginning.
        dropout: share of the entries between two layers that is dropped in training, in [0, 1).
        dtype: of the parameters, to which inputs are cast; JAX's default floating dtype if None.
        key: for the parameters.

    Attributes:
        layers: the cells, by layer and direction.
        dropout: between the layers; `eqx.nn.inference_mode` switches it off.

    Raises:
        ValueError: an unknown kind of cell, a size or a number of layers below 1, or a dropout outside [0, 1).

    Example:
        >>> import equinox as eqx, jax, jax.numpy as jnp
        >>> from chainrule import neural
        >>> encoder = neural.Recurrent(eqx.nn.LSTMCell, 8, 16, bidirectional=True, key=jax.random.key(0))
        >>> encoder(jnp.ones((5, 8))).shape
        (5, 32)
        >>> batch, lengths = jnp.ones((3, 5, 8)), jnp.array([5, 2, 4])
        >>> jax.vmap(lambda x, n: encoder(x, mask=jnp.arange(5) < n))(batch, lengths).shape
        (3, 5, 32)

    Reference: Hochreiter and Schmidhuber, "Long Short-Term Memory", Neural Computation 1997; Cho et al., "Learning Phrase
    Representations using RNN Encoder–Decoder", EMNLP 2014; Graves and Schmidhuber, "Framewise Phoneme Classification with
    Bidirectional LSTM", Neural Networks 2005.
    """

    layers: tuple[tuple[Any, ...], ...]
    dropout: eqx.nn.Dropout
    input_size: int = eqx.field(static=True)
    hidden_size: int = eqx.field(static=True)

    def __init__(
        self,
        cell: type[Cell],
        input_size: int,
        hidden_size: int,
        *,
        layers: int = 1,
        bidirectional: bool = False,
        dropout: float = 0.0,
        dtype=None,
        key: Key[Array, ""],
    ):
        if cell not in {RNNCell, eqx.nn.GRUCell, eqx.nn.LSTMCell}:
            raise ValueError(f"cell is {cell!r}; give neural.RNNCell, eqx.nn.GRUCell or eqx.nn.LSTMCell, not called")
        for name, value in (("input_size", input_size), ("hidden_size", hidden_size), ("layers", layers)):
            if value < 1:
                raise ValueError(f"{name} is {value}; it is at least 1")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout is {dropout}; it is a share in [0, 1)")
        directions = 2 if bidirectional else 1
        keys = jax.random.split(key, (layers, directions))
        self.layers = tuple(
            tuple(
                cell(input_size if n == 0 else directions * hidden_size, hidden_size, dtype=dtype, key=keys[n, d])
                for d in range(directions)
            )
            for n in range(layers)
        )
        self.dropout = eqx.nn.Dropout(dropout)
        self.input_size = input_size
        self.hidden_size = hidden_size

    @property
    def output_size(self) -> int:
        """Features per step of the output: hidden_size, twice that in both directions."""
        return len(self.layers[0]) * self.hidden_size

    def __call__(
        self,
        inputs: Float[Array, "time feature"],
        *,
        mask: Bool[Array, " time"] | None = None,
        start: Bool[Array, " time"] | None = None,
        key: Key[Array, ""] | None = None,
        inference: bool | None = None,
    ) -> Float[Array, "time output"]:
        """Return the outputs of the last layer.

        Args:
            inputs: one sequence.
            mask: False on steps that are not there, wherever they are: they leave the states as they were, their inputs
                are not looked at, and their outputs are zero. For a length n of T: `jnp.arange(T) < n`.
            start: True where a new sequence begins, for several in a row: the states are zero again there, in the other
                direction at the step before.
            key: for dropout between layers.
            inference: True switches dropout off, whatever the mode of the module.

        Raises:
            ValueError: inputs, mask or start of a shape that does not fit.
        """
        if inputs.ndim != 2 or inputs.shape[1] != self.input_size:
            raise ValueError(
                f"inputs have shape {inputs.shape}; wanted (time, {self.input_size}); jax.vmap makes a batch of sequences"
            )
        for name, flags in (("mask", mask), ("start", start)):
            if flags is not None and flags.shape != inputs.shape[:1]:
                raise ValueError(f"{name} has shape {flags.shape}; inputs of shape {inputs.shape} ask for one per step")
        keys = [None] * len(self.layers) if key is None else jax.random.split(key, len(self.layers))
        outputs = inputs
        for n, (cells, key_) in enumerate(zip(self.layers, keys, strict=True)):
            if n > 0:
                outputs = self.dropout(outputs, key=key_, inference=inference)
            directions = zip(cells, (False, True), strict=False)
            outputs = jnp.concatenate([_walk(cell, outputs, mask, start, reverse) for cell, reverse in directions], 1)
        return outputs


def RNN(input_size: int, hidden_size: int, **options: Any) -> Recurrent:
    """Return `Recurrent(neural.RNNCell, input_size, hidden_size, **options)`: Elman's network."""
    return Recurrent(RNNCell, input_size, hidden_size, **options)


def GRU(input_size: int, hidden_size: int, **options: Any) -> Recurrent:
    """Return `Recurrent(eqx.nn.GRUCell, input_size, hidden_size, **options)`: gated recurrent units."""
    return Recurrent(eqx.nn.GRUCell, input_size, hidden_size, **options)


def LSTM(input_size: int, hidden_size: int, **options: Any) -> Recurrent:
    """Return `Recurrent(eqx.nn.LSTMCell, input_size, hidden_size, **options)`: long short-term memory."""
    return Recurrent(eqx.nn.LSTMCell, input_size, hidden_size, **options)


# A cell as an affine map and a gate


class _Gate(NamedTuple):
    """What a cell does with z, unit by unit, and how many arrays its state has; the first is its output."""

    apply: Callable[[Array, State], State]
    num_states: int


def _rnn(z, state):
    return (jnp.tanh(z),)


def _gru(z, state):
    (h,) = state
    reset, keep, _, _ = jnp.split(jax.nn.sigmoid(z), 4)
    _, _, of_input, of_state = jnp.split(z, 4)
    new = jnp.tanh(of_input + reset * of_state)
    return (new + keep * (h - new),)


def _lstm(z, state):
    _, c = state
    # One sigmoid over all of z, one quarter of it in vain: on slices XLA's loop is not vectorised, and four times slower.
    into, keep, _, out = jnp.split(jax.nn.sigmoid(z), 4)
    c = keep * c + into * jnp.tanh(jnp.split(z, 4)[2])
    return out * jnp.tanh(c), c


_RNN, _GRU, _LSTM = _Gate(_rnn, 1), _Gate(_gru, 1), _Gate(_lstm, 2)


def _affine(cell: Cell) -> tuple[_Gate, Array, Array, Array]:
    """The gate of a cell, with W, U and b."""
    rows = cell.weight_ih.shape[0]
    bias = jnp.zeros(rows, cell.weight_ih.dtype) if cell.bias is None else cell.bias
    if isinstance(cell, RNNCell):
        return _RNN, cell.weight_ih, cell.weight_hh, bias
    if isinstance(cell, eqx.nn.LSTMCell):
        return _LSTM, cell.weight_ih, cell.weight_hh, bias
    # The reset gate sits between the two parts of the candidate, so they stay apart: z = reset, keep, W x + b, U h + b'.
    size = cell.hidden_size
    into_gates, into_candidate = jnp.split(cell.weight_hh, [2 * size])
    nothing = jnp.zeros_like(into_candidate)
    bias_n = jnp.zeros(size, bias.dtype) if cell.bias_n is None else cell.bias_n
    return (
        _GRU,
        jnp.pad(cell.weight_ih, ((0, size), (0, 0))),
        jnp.concatenate([into_gates, nothing, into_candidate]),
        jnp.concatenate([bias, bias_n]),
    )


# The walk


def _walk(cell, inputs, mask, start, reverse: bool):
    """The outputs of one cell along a sequence; masked steps give zero."""
    gate, weight_in, weight_state, bias = _affine(cell)
    inputs = inputs.astype(bias.dtype)
    if mask is not None:
        inputs = jnp.where(mask[:, None], inputs, 0)  # before the product: NaN in padding must not reach a gradient
    if start is not None and reverse:
        start = jnp.concatenate([start[1:], jnp.ones(1, bool)])  # backwards, a sequence begins at its end
    hidden = _recur(gate, reverse, weight_state, inputs @ weight_in.T + bias[None], mask, start)
    return hidden if mask is None else jnp.where(mask[:, None], hidden, 0)


def _step(gate: _Gate, mask, z, state: State) -> State:
    new = gate.apply(z, state)
    return new if mask is None else jax.tree.map(partial(jnp.where, mask), new, state)


def _forget(start, state: State) -> State:
    return state if start is None else jax.tree.map(lambda s: jnp.where(start, 0, s), state)


def _product(weight, h):
    return lax.dot_general(h, weight, (((0,), (1,)), ((), ())))  # weight @ h, which vmap makes into h @ weight.T


def _zeros(gate: _Gate, weight) -> State:
    return (jnp.zeros(weight.shape[1], weight.dtype),) * gate.num_states


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _recur(gate, reverse, weight, z, mask, start) -> Float[Array, "time hidden"]:
    """The output of every step; z lacks the part that comes from the state."""

    def step(state, step_inputs):
        z, mask, start = step_inputs
        state = _forget(start, state)
        state = _step(gate, mask, z + _product(weight, state[0]), state)
        return state, state[0]

    return lax.scan(step, _zeros(gate, weight), (z, mask, start), reverse=reverse)[1]


@_recur.defjvp
def _recur_jvp(gate, reverse, primals, tangents):
    weight, z, mask, start = primals
    d_weight, d_z, _, _ = tangents

    def step(state, step_inputs):
        z, mask, start = step_inputs
        before = _forget(start, state)
        state, linear = jax.linearize(partial(_step, gate, mask), z + _product(weight, before[0]), before)
        return state, (state[0], before[0], linear)

    _, (hidden, before, linear) = lax.scan(step, _zeros(gate, weight), (z, mask, start), reverse=reverse)

    def linear_step(d_state, step_inputs):
        linear, drive, start = step_inputs
        d_state = _forget(start, d_state)
        d_state = linear(drive + _product(weight, d_state[0]), d_state)
        return d_state, d_state[0]

    drive = d_z + before @ d_weight.T  # the only place of d_weight: its gradient is one product too
    _, d_hidden = lax.scan(linear_step, _zeros(gate, weight), (linear, drive, start), reverse=reverse)
    return hidden, d_hidden
