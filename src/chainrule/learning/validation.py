"""Looking at a fit between its epochs: scores on data that it does not learn from."""

import math
from collections.abc import Callable
from numbers import Real
from typing import Any

import equinox as eqx


class Validation(eqx.Module):
    """Score the model after every epoch, keep the best one, and stop when it no longer gets better.

    Args:
        score: is called with the model as it is and returns a number, the higher the better, or None, which counts as
            better than all before. It may do anything else: print, draw, or save the model, so that a crash loses an epoch
            and no more; a fit that begins with the saved model goes on from there.
        patience: stop after so many epochs without a better score; None never does.

    Raises:
        ValueError: a score that is not callable, or a patience below one.

    Example:
        >>> import chainrule as cr, jax
        >>> x, y = [["the", "dog", "barks"], ["a", "cat", "sleeps"]], [["D", "N", "V"]] * 2
        >>> held_out = cr.Validation(lambda model: model.log_prob(["the", "cat", "sleeps"], ["D", "N", "V"]), patience=3)
        >>> crf = cr.LinearChainCRF(["D", "N", "V"], [cr.templates("%x[0,0]")])
        >>> fit = crf.fit(x, y, method=cr.MiniBatch(epochs=5), validation=held_out, key=jax.random.key(0))
        >>> fit.validation.shape
        (5,)

    Reference: Prechelt, "Early Stopping – But When?", 1998.
    """

    score: Callable[[Any], Any] = eqx.field(static=True)
    patience: int | None = eqx.field(default=None, static=True)

    def __check_init__(self):
        if not callable(self.score):
            raise ValueError(f"Validation: score is {self.score!r}; wanted a function that a model is given to")
        if self.patience is not None and self.patience < 1:
            raise ValueError(f"Validation: patience is {self.patience}; wait for at least one epoch, or None for ever")


class Watch:
    """A fit under validation: its scores so far, and what was best."""

    def __init__(self, validation: Validation):
        self.validation = validation
        self.scores: list[float] = []
        self.best: Any = None
        self.at = -1  # the epoch of the best

    def look(self, model: Any, state: Any) -> bool:
        """Score a model and keep `state` if it is better than all before; whether it is time to stop."""
        found = self.validation.score(model)
        score = math.nan if found is None else _number(found)
        if found is None or self.at < 0 or score > self.scores[self.at] or math.isnan(self.scores[self.at]):
            self.best, self.at = state, len(self.scores)
        self.scores.append(score)
        patience = self.validation.patience
        return patience is not None and len(self.scores) - 1 - self.at >= patience


def _number(found: Any) -> float:
    if isinstance(found, Real) or getattr(found, "ndim", None) == 0:
        return float(found)
    raise ValueError(f"Validation: score returned {found!r}; wanted one number, higher where the model is better")
