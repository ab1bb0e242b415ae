"""From words to potentials of labels: the network under a neural conditional random field."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from .characters import CharacterCNN
from .recurrent import Cell, Recurrent


class SequenceTagger(eqx.Module):
    """Score every label at every word: embeddings → dropout → a recurrent net in both directions → a linear map.

    With `characters` this is the CNN–BiLSTM under the CNN–BiLSTM–CRF. Its outputs are log-potentials up to a constant:
    a softmax makes labels of each word for itself, a chain makes a conditional random field.

    Args:
        embedding: of the words; `eqx.nn.Embedding(weight=…)` takes vectors that are trained already.
        num_labels: K.
        characters: a network that adds features from the spelling of each word.
        cell: the kind of recurrent cell.
        hidden_size: units per direction.
        layers: of the recurrent net.
        dropout: share of the entries dropped in training before, between and after the recurrent layers, in [0, 1).
        key: for the parameters.

    Raises:
        ValueError: no labels; sizes as in `Recurrent`.

    Example:
        >>> import equinox as eqx, jax, jax.numpy as jnp
        >>> from chainrule import neural
        >>> word_key, key = jax.random.split(jax.random.key(0))
        >>> tagger = neural.SequenceTagger(eqx.nn.Embedding(1000, 50, key=word_key), 9, hidden_size=32, key=key)
        >>> tagger(jnp.array([17, 4, 256]), inference=True).shape
        (3, 9)

    Reference: Huang, Xu and Yu, "Bidirectional LSTM-CRF Models for Sequence Tagging", 2015; Ma and Hovy, "End-to-end
    Sequence Labeling via Bi-directional LSTM-CNNs-CRF", ACL 2016.
    """

    embedding: eqx.nn.Embedding
    characters: CharacterCNN | None
    dropout: eqx.nn.Dropout
    recurrent: Recurrent
    output: eqx.nn.Linear

    def __init__(
        self,
        embedding: eqx.nn.Embedding,
        num_labels: int,
        *,
        characters: CharacterCNN | None = None,
        cell: type[Cell] = eqx.nn.LSTMCell,
        hidden_size: int = 100,
        layers: int = 1,
        dropout: float = 0.5,
        key: Key[Array, ""],
    ):
        if num_labels < 1:
            raise ValueError(f"num_labels is {num_labels}; it is at least 1")
        recurrent_key, output_key = jax.random.split(key)
        size = embedding.weight.shape[1] + (0 if characters is None else characters.output_size)
        dtype = embedding.weight.dtype
        self.embedding = embedding
        self.characters = characters
        self.dropout = eqx.nn.Dropout(dropout)
        self.recurrent = Recurrent(
            cell, size, hidden_size, layers=layers, bidirectional=True, dropout=dropout, dtype=dtype, key=recurrent_key
        )
        self.output = eqx.nn.Linear(self.recurrent.output_size, num_labels, dtype=dtype, key=output_key)

    def __call__(
        self,
        words: Int[Array, " time"],
        characters: Int[Array, "time character"] | None = None,
        *,
        mask: Bool[Array, " time"] | None = None,
        start: Bool[Array, " time"] | None = None,
        key: Key[Array, ""] | None = None,
        inference: bool | None = None,
    ) -> Float[Array, "time label"]:
        """Return the potentials of one sentence; `jax.vmap` makes a batch.

        Args:
            words: ids of the words.
            characters: ids of their characters, padded with 0; needed if and only if the tagger reads characters.
            mask: False on steps that are not there; their potentials are zero.
            start: True where a new sentence begins, for several in a row.
            key: for dropout.
            inference: True switches dropout off, whatever the mode of the module.

        Raises:
            ValueError: characters missing, or given to a tagger that does not read them.
        """
        if (characters is None) != (self.characters is None):
            raise ValueError(
                "this tagger reads characters: call tagger(words, characters)"
                if characters is None
                else "this tagger reads words only; build it with characters=neural.CharacterCNN(…)"
            )
        keys = (None, None, None) if key is None else jax.random.split(key, 3)
        features = jax.vmap(self.embedding)(words)
        if self.characters is not None and characters is not None:
            features = jnp.concatenate([features, self.characters(characters)], axis=1)
        features = self.dropout(features, key=keys[0], inference=inference)
        encoded = self.recurrent(features, mask=mask, start=start, key=keys[1], inference=inference)
        encoded = self.dropout(encoded, key=keys[2], inference=inference)
        potentials = jax.vmap(self.output)(encoded)
        return potentials if mask is None else jnp.where(mask[:, None], potentials, 0)
