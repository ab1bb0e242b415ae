"""Posteriors over models and networks, by NumPyro."""

from .distribution import SequenceDistribution, as_distribution
from .likelihoods import Bernoulli, Categorical, Normal
from .methods import NUTS, SVI, AbstractMethod, Diagnostics, Draws, Status
from .network import BNN, NetworkPosterior
from .posterior import ModelPosterior, posterior
from .predictive import Predictive

__all__ = [
    "BNN",
    "NUTS",
    "SVI",
    "AbstractMethod",
    "Bernoulli",
    "Categorical",
    "Diagnostics",
    "Draws",
    "ModelPosterior",
    "NetworkPosterior",
    "Normal",
    "Predictive",
    "SequenceDistribution",
    "Status",
    "as_distribution",
    "posterior",
]
