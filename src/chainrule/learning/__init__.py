"""How a model is fitted: strategies that ask a model for a few methods, and the result they all give."""

from .em import EM
from .fit import Fit, Status
from .gradient import LBFGS, Adam
from .minibatch import MiniBatch

__all__ = ["EM", "LBFGS", "Adam", "Fit", "MiniBatch", "Status"]
