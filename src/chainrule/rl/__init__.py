"""Environments in: decision processes read from Gymnasium."""

from .environments import from_gymnasium

__all__ = ["from_gymnasium"]
