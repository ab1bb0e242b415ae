"""Recurrent layers against Equinox's cells called step by step, and what masks, flags and directions mean."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn import drawn

from chainrule import neural

KEY = jax.random.key(0)
CELLS = [neural.RNNCell, eqx.nn.GRUCell, eqx.nn.LSTMCell]
each_cell = pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.__name__)


def inputs(time, features=3, seed=1):
    return np.random.default_rng(seed).normal(size=(time, features)).astype(np.float32)


def by_steps(cell, x):
    """The outputs of a cell, one call after the other: what the layers must equal."""
    state = (jnp.zeros(cell.hidden_size),) * 2 if isinstance(cell, eqx.nn.LSTMCell) else jnp.zeros(cell.hidden_size)
    found = []
    for step in x:
        state = cell(step, state)
        found.append(state[0] if isinstance(state, tuple) else state)
    return jnp.stack(found)


def both_ways(cells, x):
    """As `by_steps`, for the two cells of a layer in both directions."""
    forward, backward = cells
    return jnp.concatenate([by_steps(forward, x), by_steps(backward, x[::-1])[::-1]], axis=1)


def make(cell, *sizes, seed=0, **options):
    return drawn(lambda: neural.Recurrent(cell, *(sizes or (3, 4)), key=KEY, **options), seed)


@eqx.filter_jit
def run(net, x, mask=None, start=None, key=None, inference=None):
    return net(x, mask=mask, start=start, key=key, inference=inference)


def close(a, b, tolerance=2e-6):
    jax.tree.map(lambda u, v: np.testing.assert_allclose(u, v, atol=tolerance, rtol=1e-5), a, b)


def test_layers_are_stacked():
    net = make(eqx.nn.LSTMCell, layers=2, bidirectional=True)
    expected = eqx.filter_jit(lambda net, x: both_ways(net.layers[1], both_ways(net.layers[0], x)))(net, inputs(4))
    close(run(net, inputs(4)), expected)
    assert net.output_size == expected.shape[1]


@each_cell
def test_outputs_and_gradients_are_those_of_the_cells(cell):
    weights = inputs(3, 4, seed=2)

    @eqx.filter_jit
    def compare(both):
        outputs = (lambda net, x: net(x)), (lambda net, x: by_steps(net.layers[0][0], x))
        found = []
        for ask in outputs:
            loss = lambda both, ask=ask: ((ask(*both) * weights).sum(), ask(*both))  # noqa: E731
            found.append(eqx.filter_value_and_grad(loss, has_aux=True)(both))
        return found

    close(*compare((make(cell), jax.device_put(inputs(3)))))


def test_gradients_are_finite_differences_with_masks_and_starts():
    mask = np.array([False, True, True, False, True, True, False])
    start = np.array([True, False, False, False, True, False, False])

    with jax.enable_x64(True):
        weights = inputs(7, 8, seed=2).astype(float)
        both = (make(eqx.nn.GRUCell, bidirectional=True), jax.device_put(inputs(7)))
        arrays, static = eqx.partition(both, eqx.is_inexact_array)
        arrays = jax.tree.map(lambda a: np.asarray(a, float), arrays)
        tangent = jax.tree.map(lambda a: np.random.default_rng(a.size).normal(size=a.shape), arrays)

        @jax.jit
        def slopes(arrays):
            def loss(arrays):
                net, x = eqx.combine(arrays, static)
                return (net(x, mask=mask, start=start) * weights).sum()

            value, along = jax.jvp(loss, (arrays,), (tangent,))
            return value, along, jax.grad(loss)(arrays)

        _, along, gradient = slopes(arrays)
        slope = sum(np.sum(np.asarray(g) * t) for g, t in zip(*map(jax.tree.leaves, (gradient, tangent)), strict=True))
        up, down = (float(slopes(jax.tree.map(lambda a, t, s=s: a + s * t, arrays, tangent))[0]) for s in (1e-5, -1e-5))
        assert abs(slope - (up - down) / 2e-5) < 1e-7
        assert abs(slope - float(along)) < 1e-12


def test_second_derivatives_are_those_of_the_cells():
    net, x = make(eqx.nn.GRUCell), inputs(3)
    arrays, static = eqx.partition(net.layers[0][0], eqx.is_inexact_array)

    def curvature(outputs, at):
        def loss(arrays):
            return (outputs(eqx.combine(arrays, static)) ** 2).sum()

        return jax.jvp(jax.grad(loss), (at,), (at,))[1]

    def by_layer(cell):
        return eqx.tree_at(lambda net: net.layers[0][0], net, cell)(x)

    fast, slow = jax.jit(lambda at: (curvature(by_layer, at), curvature(lambda cell: by_steps(cell, x), at)))(arrays)
    close(fast, slow, 1e-5)


@each_cell
def test_masked_steps_are_as_if_they_were_not_there(cell):
    net = make(cell, bidirectional=True)
    mask = np.array([False, True, True, False, False, True, True, False])  # leading, inner and trailing
    x = inputs(8)
    outputs = np.asarray(run(net, x, mask))
    close(outputs[mask], run(net, x[mask]))
    assert (outputs[~mask] == 0).all()


def test_sequences_packed_in_a_row_do_not_see_each_other():
    net = make(eqx.nn.LSTMCell, layers=2, bidirectional=True)
    first, second, third = inputs(4, seed=3), inputs(1, seed=4), inputs(4, seed=5)
    row = np.concatenate([first, second, third, np.full((2, 3), np.nan, np.float32)])
    start = np.isin(np.arange(11), (0, 4, 5, 9, 10))
    mask = np.arange(11) < 9
    expected = np.concatenate([*(run(net, x) for x in (first, second, third)), np.zeros((2, net.output_size))])
    close(run(net, row, mask, start), expected)
    row[9:] = 0
    close(np.asarray(run(net, row, start=start))[:9], expected[:9])  # a start in the padding is enough


def test_a_masked_start_still_resets():
    net = make(eqx.nn.GRUCell, bidirectional=True)
    x = inputs(5)
    start = np.array([True, False, True, False, False])
    mask = np.array([True, True, False, True, True])
    close(np.asarray(run(net, x, mask, start))[mask], np.concatenate([run(net, x[:2]), run(net, x[3:])]))


def test_a_ragged_batch_equals_its_sequences():
    net = make(eqx.nn.LSTMCell)
    lengths = np.array([5, 2])
    masks = np.arange(5)[None] < lengths[:, None]
    x = np.where(masks[..., None], np.stack([inputs(5, seed=n) for n in range(2)]), np.float32(np.nan))

    @eqx.filter_jit
    @eqx.filter_value_and_grad(has_aux=True)
    def loss(both, masks):
        outputs = jax.vmap(lambda x, mask: both[0](x, mask=mask))(both[1], masks)
        return (outputs**2).sum(), outputs

    (_, batch), (by_net, by_x) = loss((net, x), masks)
    total = None
    for n, length in enumerate(lengths):
        one = x[n, None, :length]
        (_, alone), (gradient, _) = loss((net, one), np.ones((1, length), bool))
        close(np.asarray(batch)[n, :length], np.asarray(alone)[0])
        gradient = jax.tree.map(np.asarray, gradient)
        total = gradient if total is None else jax.tree.map(np.add, total, gradient)
    close(by_net, total, 1e-5)
    assert (np.asarray(by_x)[~masks] == 0).all()  # NaN in the padding reaches no gradient


def test_a_batch_is_one_product_per_step():
    net = make(eqx.nn.LSTMCell, 3, 5)
    arrays, static = eqx.partition(net, eqx.is_inexact_array)
    gradient = jax.grad(lambda arrays, x: (jax.vmap(eqx.combine(arrays, static))(x) ** 2).sum())
    program = str(jax.make_jaxpr(gradient)(arrays, np.ones((7, 11, 3), np.float32)))
    shapes = [line.split("=")[0].split(":")[1].strip() for line in program.splitlines() if "= dot_general" in line]
    assert shapes.count("f32[7,20]") == 1  # forward: all rows by U, inside the loop
    assert shapes.count("f32[7,5]") == 1  # backward: all rows by U transposed, inside the loop
    assert not [shape for shape in shapes if shape.startswith("f32[7,20,")]  # no gradient of U per row
    assert not [shape for shape in shapes if shape.startswith("f32[7,5,")]


def test_one_trace_serves_many_values():
    traces = []

    @eqx.filter_jit
    def traced(net, x, mask):
        traces.append(1)
        return net(x, mask=mask, inference=True)

    for seed in range(3):
        net = make(eqx.nn.GRUCell, layers=2, dropout=0.5, seed=seed)
        assert traced(net, inputs(5, seed=seed), np.arange(5) < seed + 1).shape == (5, 4)
    assert len(traces) == 1


def test_dropout_acts_between_layers_in_training_only():
    net = make(eqx.nn.GRUCell, layers=2, dropout=0.5)
    x = inputs(5)
    plain = run(make(eqx.nn.GRUCell, layers=2), x)
    close(run(net, x, inference=True), plain)
    close(run(eqx.nn.inference_mode(net), x), plain)
    dropped = run(net, x, key=KEY)
    assert not np.allclose(dropped, plain)
    close(run(net, x, key=KEY), dropped)
    assert not np.allclose(run(net, x, key=jax.random.key(7)), dropped)
    with pytest.raises(RuntimeError, match="Dropout requires a key"):
        run(net, x)
    close(run(make(eqx.nn.GRUCell, dropout=0.5), x), run(make(eqx.nn.GRUCell), x))  # one layer has nothing between


@each_cell
def test_the_dtype_is_that_of_the_parameters(cell):
    assert jax.eval_shape(make(cell), inputs(3)).dtype == jnp.float32
    net = make(cell, dtype=jnp.bfloat16)
    assert jax.eval_shape(net, inputs(3)).dtype == jnp.bfloat16
    assert jax.eval_shape(net, np.ones((3, 3), np.int32)).dtype == jnp.bfloat16


def test_cells_without_bias_work():
    net = make(eqx.nn.GRUCell)
    cell = drawn(lambda: eqx.nn.GRUCell(3, 4, use_bias=False, key=KEY))
    expected = eqx.filter_jit(by_steps)(cell, inputs(4))
    close(run(eqx.tree_at(lambda net: net.layers[0][0], net, cell), inputs(4)), expected)


def test_short_names_choose_the_cell():
    short = (neural.RNN, neural.GRU, neural.LSTM)
    kinds = [type(drawn(lambda make=make: make(3, 4, key=KEY)).layers[0][0]) for make in short]
    assert kinds == CELLS


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: neural.Recurrent("lstm", 3, 4, key=KEY), "cell is 'lstm'"),
        (lambda: neural.LSTM(0, 4, key=KEY), "input_size is 0"),
        (lambda: neural.LSTM(3, 4, layers=0, key=KEY), "layers is 0"),
        (lambda: neural.LSTM(3, 4, dropout=1.0, key=KEY), "dropout is 1.0"),
        (lambda: make(eqx.nn.LSTMCell)(np.ones((2, 5, 3))), r"shape \(2, 5, 3\); wanted \(time, 3\)"),
        (lambda: make(eqx.nn.LSTMCell)(np.ones((5, 2))), r"wanted \(time, 3\)"),
        (lambda: make(eqx.nn.LSTMCell)(np.ones((5, 3)), mask=np.ones(4, bool)), r"mask has shape \(4,\)"),
        (lambda: make(eqx.nn.LSTMCell)(np.ones((5, 3)), start=np.ones((), bool)), r"start has shape \(\)"),
    ],
)
def test_what_does_not_fit_is_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
