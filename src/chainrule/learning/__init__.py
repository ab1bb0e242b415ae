"""How a model is fitted: strategies that ask a model for a few methods, and the result they all give.

Each loads on first use, because a model needs few of them.
"""

import importlib
from typing import TYPE_CHECKING, Any

# public name -> the module that defines it
_HOME = {
    "Adam": "gradient",
    "AveragedPerceptron": "minibatch",
    "CD": "contrastive",
    "DenoisingScoreMatching": "energies",
    "EM": "em",
    "Fit": "fit",
    "LBFGS": "gradient",
    "LangevinPCD": "energies",
    "MiniBatch": "minibatch",
    "NoiseContrastive": "energies",
    "PCD": "contrastive",
    "Safeguard": "guarded",
    "SlicedScoreMatching": "energies",
    "Status": "fit",
    "Validation": "validation",
}

__all__ = sorted(_HOME)  # noqa: PLE0605

if TYPE_CHECKING:
    from .contrastive import CD, PCD
    from .em import EM
    from .energies import DenoisingScoreMatching, LangevinPCD, NoiseContrastive, SlicedScoreMatching
    from .fit import Fit, Status
    from .gradient import LBFGS, Adam
    from .guarded import Safeguard
    from .minibatch import AveragedPerceptron, MiniBatch
    from .validation import Validation


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
