"""How a model is fitted: strategies that ask a model for a few methods, and the result they all give."""

from .contrastive import CD, PCD
from .em import EM
from .energies import DenoisingScoreMatching, LangevinPCD, NoiseContrastive, SlicedScoreMatching
from .fit import Fit, Status
from .gradient import LBFGS, Adam
from .guarded import Safeguard
from .minibatch import AveragedPerceptron, MiniBatch
from .validation import Validation

__all__ = [
    "CD",
    "EM",
    "LBFGS",
    "PCD",
    "Adam",
    "AveragedPerceptron",
    "DenoisingScoreMatching",
    "Fit",
    "LangevinPCD",
    "MiniBatch",
    "NoiseContrastive",
    "Safeguard",
    "SlicedScoreMatching",
    "Status",
    "Validation",
]
