"""Progress bars: what they show, that they change no result and no compilation, and that they never end the work."""

import contextlib
import io
import itertools
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from chainrule.learning import progress

traces = []


@jax.jit
def halve(x, steps, token):
    """A loop that stops early, at the step where x falls below one."""
    traces.append(token)

    def body(state):
        step, x = state
        x = x / 2
        progress.report(token, step + 1, x, last=x < 1)
        return step + 1, x

    return jax.lax.while_loop(lambda s: (s[0] < steps) & (s[1] >= 1), body, (jnp.zeros((), jnp.int32), x))


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def log():
    return io.StringIO()


@pytest.fixture
def terminal():
    return Terminal()


@contextlib.contextmanager
def bar(stream, total, **kwargs):
    # not in the fixtures: pytest's own capture takes standard error back when the test begins
    with contextlib.redirect_stderr(stream), progress.bar("halving", total=total, **kwargs) as token:
        yield token


def test_results_are_the_same_with_and_without(log):
    x = jnp.float32(2.0**70 / 3)
    with bar(log, 100) as token:
        shown = halve(x, 100, token)
    np.testing.assert_array_equal(shown, halve(x, 100, None))


def test_nothing_is_shown_or_compiled_in_when_disabled(log):
    with bar(log, 100, enabled=False) as token:
        halve(jnp.float32(8.0), 100, token)
        assert "callback" not in str(jax.make_jaxpr(halve)(jnp.float32(8.0), 100, token))
    assert token is None
    assert log.getvalue() == ""


def test_bars_and_totals_compile_nothing_anew(log):
    @jax.jit
    def again(x, total, token):
        return halve.__wrapped__(x, total, token)  # by a program of its own, which no other test has compiled

    traces.clear()
    for total in (10, 1000, 7):
        with bar(log, total) as token:
            again(jnp.float32(8.0), total, token)
    assert len(traces) == 1


@pytest.mark.parametrize("total", [1, 2, 9, 10, 11, 99, 1000, 12_345])
def test_a_log_gets_at_most_ten_lines_and_the_last_report(log, total):
    with bar(log, total) as token:
        halve(jnp.float32(jnp.inf), total, token)
    lines = log.getvalue().splitlines()
    assert 1 <= len(lines) <= 10
    assert f" {total}/{total}  inf  " in lines[-1]
    assert lines[-1].startswith("halving [########################]")
    assert "\r" not in log.getvalue()


def test_the_iteration_that_stops_early_is_shown(log):
    with bar(log, 100_000) as token:
        halve(jnp.float32(100.0), 100_000, token)
    (line,) = log.getvalue().splitlines()
    assert " 7/100000  0.78125  " in line


def test_a_terminal_line_is_overwritten(terminal, monkeypatch):
    monkeypatch.setattr(progress, "_REDRAW_SECONDS", 0.0)
    with bar(terminal, 40) as token:
        assert terminal.getvalue().startswith("\rhalving [........................] 0/40  0.0 s")
        halve(jnp.float32(2.0**29), 40, token)
    first, *redrawn = terminal.getvalue().split("\r")
    assert first == ""
    assert len(redrawn) == 31  # none yet, then each iteration
    assert all(len(later) >= len(line.rstrip()) for line, later in itertools.pairwise(redrawn))
    assert " 30/40  0.5  " in redrawn[-1]
    assert terminal.getvalue().count("\n") == 1
    assert terminal.getvalue().endswith("\n")


def test_redraws_are_spaced_in_time(terminal):
    with bar(terminal, 100) as token:
        halve(jnp.float32(jnp.inf), 100, token)
    assert terminal.getvalue().count("\r") < 20
    assert "100/100" in terminal.getvalue()


def test_reports_are_few_however_long_the_loop(log, monkeypatch):
    seen = []
    monkeypatch.setattr(progress._Bar, "update", lambda self, iteration, value: seen.append(iteration))
    with bar(log, 10_050) as token:
        halve(jnp.float32(jnp.inf), 10_050, token)
    assert sorted(seen) == [*range(101, 10_050, 101), 10_050]
    assert log.getvalue() == ""


def test_two_fits_at_once_keep_their_own_bars(log):
    def run(label, x):
        with progress.bar(label, total=50) as token:
            halve(jnp.float32(x), 50, token)

    threads = [threading.Thread(target=run, args=a) for a in (("first", 2.0**9), ("second", 2.0**19))]
    with contextlib.redirect_stderr(log):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    last = {line.split()[0]: line for line in log.getvalue().splitlines()}
    assert " 10/50 " in last["first"]
    assert " 20/50 " in last["second"]


def test_under_vmap_and_grad_results_hold(log):
    x = jnp.array([8.0, 64.0])
    with bar(log, 100) as token:
        steps, ends = jax.vmap(halve, (0, None, None))(x, 100, token)
        slope = jax.grad(lambda x: jax.lax.fori_loop(0, 3, lambda i, x: _reported(token, i, x), x))(1.0)
    np.testing.assert_array_equal(steps, [4, 7])
    np.testing.assert_array_equal(ends, [0.5, 0.5])
    assert slope == 8.0
    assert " 7/100 " in log.getvalue()


def _reported(token, i, x):
    progress.report(token, i + 1, x)
    return 2 * x


@pytest.mark.parametrize("stream", [None, Terminal()])
def test_a_stream_that_is_gone_does_not_end_the_work(stream):
    with bar(stream, 10) as token:
        if stream is not None:
            stream.close()
        steps, _ = halve(jnp.float32(8.0), 10, token)
    assert steps == 4


def test_a_block_left_by_an_exception_leaves_no_bar(terminal):
    with pytest.raises(KeyboardInterrupt), bar(terminal, 10) as token:
        raise KeyboardInterrupt
    halve(jnp.float32(8.0), 10, token)
    jax.effects_barrier()
    assert not progress._bars
    assert terminal.getvalue().endswith("\n")


def test_bad_arguments(log):
    with pytest.raises(ValueError, match="total is 0"), bar(log, 0):
        pass
    with (
        bar(log, 3) as token,
        pytest.raises(ValueError, match=r"got shapes \(\) and \(2,\).*report the best"),
    ):
        progress.report(token, 1, jnp.ones(2))
