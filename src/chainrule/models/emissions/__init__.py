"""Emission distributions p(x_t | z_t) of hidden Markov models."""

from .base import AbstractEmission
from .composite import Mixture, Product
from .custom import Custom, Score
from .discrete import Bernoulli, Beta, Categorical, Dirichlet, Gamma, Poisson
from .normal import MultivariateNormal, Normal, NormalInverseGamma

__all__ = [
    "AbstractEmission",
    "Bernoulli",
    "Beta",
    "Categorical",
    "Custom",
    "Dirichlet",
    "Gamma",
    "Mixture",
    "MultivariateNormal",
    "Normal",
    "NormalInverseGamma",
    "Poisson",
    "Product",
    "Score",
]
