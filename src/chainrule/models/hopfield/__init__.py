"""Associative memories: Hopfield's network with three storage rules, dense memories, and the continuous network."""

from .continuous import ContinuousHopfield, Retrieved, retrieve
from .dense import AbstractInteraction, DenseMemory, Exponential, Polynomial
from .network import Hopfield
from .results import Recall, RecallStatus
from .rules import AbstractRule, Hebb, PseudoInverse, Storkey

__all__ = [
    "AbstractInteraction",
    "AbstractRule",
    "ContinuousHopfield",
    "DenseMemory",
    "Exponential",
    "Hebb",
    "Hopfield",
    "Polynomial",
    "PseudoInverse",
    "Recall",
    "RecallStatus",
    "Retrieved",
    "Storkey",
    "retrieve",
]
