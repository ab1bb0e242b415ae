"""Posteriors over models and networks, by NumPyro."""

from .likelihoods import Bernoulli, Categorical, Normal
from .methods import NUTS, SVI, AbstractMethod, Diagnostics, Draws, Status
from .network import BNN, NetworkPosterior
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
    "NetworkPosterior",
    "Normal",
    "Predictive",
    "Status",
]
