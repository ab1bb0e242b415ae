"""Progress of loops that run inside compiled code.

Open a bar around the call, pass its token in as an ordinary argument, and report from the loop:

    @jax.jit
    def run(x, token):
        def body(state):
            step, x = state
            x = improve(x)
            progress.report(token, step + 1, objective(x))
            return step + 1, x
        ...

    with progress.bar("EM", total=500, enabled=True) as token:
        run(x, token)

The token is data, not structure: no bar compiles anything anew, and two fits at once each drive their own. A disabled
bar gives None for a token, and `report` then leaves no trace in the compiled code.

`report` belongs in the outermost loop, the one that no `vmap` surrounds: give it the best value of all restarts. Under
`vmap` it would call back for each lane, slowly; the bar then shows the lane that is furthest.
"""

import contextlib
import itertools
import math
import sys
import threading
import time
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

_REDRAW_SECONDS = 0.1
_REPORTS = 100  # calls out of the compiled loop, however long it is
_LINES = 10  # where lines cannot be overwritten, as in a log file
_WIDTH = 24

# The open bars. A compiled loop can hold on to a number but not to an object, so the number is looked up here.
_bars: dict[int, "_Bar"] = {}
_numbers = itertools.count()

Token = Int[Array, "3"] | None


@contextlib.contextmanager
def bar(label: str, *, total: int, enabled: bool = True) -> Iterator[Token]:
    """Show a bar on standard error while the block runs.

    In a terminal or a notebook one line is redrawn; elsewhere at most ten lines are written. On leaving the block, what
    was dispatched is waited for, so that the last reports are shown.

    Args:
        label: what is running, e.g. `"EM"`.
        total: iterations at which the loop stops at the latest, ≥ 1.
        enabled: False shows nothing.

    Returns:
        A context manager that gives the token for `report`: three integers, or None when disabled.

    Raises:
        ValueError: a total below one.

    Example:
        >>> import jax
        >>> from chainrule.learning import progress
        >>> def double(x, token):
        ...     def body(i, x):
        ...         progress.report(token, i + 1, x)
        ...         return 2 * x
        ...     return jax.lax.fori_loop(0, 10, body, x)
        >>> with progress.bar("doubling", total=10, enabled=False) as token:
        ...     print(jax.jit(double)(1.0, token))
        1024.0
    """
    if total < 1:
        raise ValueError(f"total is {total}; a progress bar needs at least one iteration")
    if not enabled:
        yield None
        return
    number = next(_numbers) % 2**31
    _bars[number] = shown = _Bar(label, total)
    try:
        yield jnp.array([number, total, math.ceil(total / _REPORTS)], jnp.int32)
        jax.effects_barrier()
    finally:
        del _bars[number]
        shown.close()


def report(
    token: Token, iteration: Int[Array, ""] | int, value: Float[Array, ""] | float, *, last: Array | bool = False
) -> None:
    """Tell a bar how far a loop is; call it where the loop's body is traced.

    About a hundred reports reach the bar, evenly spread, and the one at `total`.

    Args:
        token: what `bar` gave; None reports nothing and costs nothing.
        iteration: how many iterations are done, counted from 1.
        value: one number to show, such as the objective.
        last: True at the iteration after which the loop stops early, to show that one too.

    Raises:
        ValueError: an iteration or a value that is not a single number.
    """
    if token is None:
        return
    iteration, value = jnp.asarray(iteration), jnp.asarray(value)
    if iteration.ndim or value.ndim:
        raise ValueError(
            f"report wants one iteration and one value, got shapes {iteration.shape} and {value.shape}; with several "
            "runs side by side, report the best of them"
        )
    iteration = iteration.astype(jnp.int32)
    number, total, every = token
    lax.cond(
        (iteration % every == 0) | (iteration == total) | jnp.asarray(last),
        lambda: jax.debug.callback(_show, number, iteration, value),
        lambda: None,
    )


def show(token: Token, iteration: int, value: float) -> None:
    """Tell a bar how far a loop on the host is: `report` for concrete numbers."""
    if token is not None:
        _show(token[0], iteration, value)


def _show(number, iteration, value) -> None:
    """Receive a report. At module level, because compiled code is cached by the functions it calls."""
    shown = _bars.get(int(number))
    if shown is not None:  # closed meanwhile: its block was left by an exception
        shown.update(int(iteration), float(value))


class _Bar:
    """One line of progress. It may fall silent, but it never ends the work it watches."""

    def __init__(self, label: str, total: int):
        self.label, self.total = label, total
        self.stream = sys.stderr
        # Notebooks redraw a line too, although their stream is no terminal.
        notebook = type(self.stream).__module__.startswith("ipykernel")
        self.redraws = notebook or bool(getattr(self.stream, "isatty", lambda: False)())
        self.start = time.monotonic()
        self.drawn_at, self.tenth, self.width = -math.inf, 0, 0
        self.iteration, self.value, self.pending = 0, math.nan, False
        self.lock = threading.Lock()  # reports come from the runtime's threads
        if self.redraws:
            self.draw()  # compiling may take a while: show that something goes on

    def update(self, iteration: int, value: float) -> None:
        with self.lock:
            if iteration <= self.iteration:  # reports are not ordered
                return
            self.iteration, self.value, self.pending = iteration, value, True
            if self.redraws:
                due = time.monotonic() - self.drawn_at >= _REDRAW_SECONDS
            else:  # the last line is kept for `close`
                due = iteration < self.total and iteration * _LINES // self.total > self.tenth
            if due:
                self.draw()

    def close(self) -> None:
        with self.lock:
            if self.pending:
                self.draw()
            if self.redraws:
                self.write("\n")

    def draw(self) -> None:
        line = self.line()
        self.write("\r" + line.ljust(self.width) if self.redraws else line + "\n")  # over a longer line before it
        self.width, self.tenth = len(line), self.iteration * _LINES // self.total
        self.drawn_at, self.pending = time.monotonic(), False

    def line(self) -> str:
        filled = min(_WIDTH, _WIDTH * self.iteration // self.total)
        gauge = "#" * filled + "." * (_WIDTH - filled)
        value = f"  {self.value:.6g}" if self.iteration else ""
        return f"{self.label} [{gauge}] {self.iteration}/{self.total}{value}  {time.monotonic() - self.start:.1f} s"

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError, AttributeError):  # a pipe or file that was closed, or no stream
            self.stream.write(text)
            self.stream.flush()
