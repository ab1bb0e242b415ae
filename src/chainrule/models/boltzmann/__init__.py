"""Boltzmann machines on any graph."""

from .machine import BoltzmannMachine

__all__ = ["BoltzmannMachine"]
