"""Equinox modules that Equinox lacks: recurrent layers for ragged data, words from characters, a sequence tagger.

They are plain callables and know no model, as no model knows them: a model takes any callable.
"""

from .characters import CharacterCNN
from .recurrent import GRU, LSTM, RNN, Recurrent, RNNCell
from .tagger import SequenceTagger

__all__ = ["GRU", "LSTM", "RNN", "CharacterCNN", "RNNCell", "Recurrent", "SequenceTagger"]
