"""How a model is fitted: strategies that ask a model for a few methods, and the result they all give."""

from .contrastive import CD, PCD
from .em import EM
from .fit import Fit, Status
from .gradient import LBFGS, Adam
from .minibatch import AveragedPerceptron, MiniBatch
from .validation import Validation

__all__ = ["CD", "EM", "LBFGS", "PCD", "Adam", "AveragedPerceptron", "Fit", "MiniBatch", "Status", "Validation"]
