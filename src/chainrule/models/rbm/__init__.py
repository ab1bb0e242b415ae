"""Restricted Boltzmann machines and what is built of them."""

from .classifier import ClassificationRBM
from .deep_belief import DeepBeliefNetwork
from .deep_boltzmann import DeepBoltzmannMachine
from .likelihood import PartitionBounds
from .machine import RBM
from .units import Binary, Categorical, Gaussian, Rectified

__all__ = [
    "RBM",
    "Binary",
    "Categorical",
    "ClassificationRBM",
    "DeepBeliefNetwork",
    "DeepBoltzmannMachine",
    "Gaussian",
    "PartitionBounds",
    "Rectified",
]
