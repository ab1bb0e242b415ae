"""Boltzmann machines on any graph."""

from .machine import BoltzmannMachine
from .random_field import MarkovRandomField

__all__ = ["BoltzmannMachine", "MarkovRandomField"]
