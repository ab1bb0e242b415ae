"""Words from their characters: convolutions along the spelling, and the maximum over it."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key


class CharacterCNN(eqx.Module):
    """Features of words from their spelling: (time, character) → (time, feature).

    Each character is embedded, each filter of width w scores the w characters around every position, with zeros beyond
    the word's ends, and a feature is its filter's highest score in the word:

        feature = activation(max over i of  b + Σⱼ filter[j] · embedding[cᵢ₊ⱼ],   j = −⌊(w−1)/2⌋ … ⌊w/2⌋)

    Args:
        num_characters: number of character ids, the padding id 0 included.
        embedding_size: features of a character.
        channels: number of filters of each width.
        widths: the widths of the filters, each ≥ 1.
        activation: applied to each maximum.
        dtype: of the parameters; JAX's default floating dtype if None.
        key: for the parameters.

    Raises:
        ValueError: no widths, or a size below 1.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from chainrule import neural
        >>> spelling = neural.CharacterCNN(30, 8, 16, widths=(2, 3), key=jax.random.key(0))
        >>> spelling(jnp.array([[3, 1, 20, 0], [4, 15, 7, 19]])).shape
        (2, 32)

    Reference: Ma and Hovy, "End-to-end Sequence Labeling via Bi-directional LSTM-CNNs-CRF", ACL 2016.
    """

    embedding: eqx.nn.Embedding
    convolutions: tuple[eqx.nn.Conv1d, ...]
    activation: Callable[[Array], Array] = eqx.field(static=True)
    output_size: int = eqx.field(static=True)

    def __init__(
        self,
        num_characters: int,
        embedding_size: int,
        channels: int,
        *,
        widths: Sequence[int] = (3,),
        activation: Callable[[Array], Array] = jax.nn.relu,
        dtype=None,
        key: Key[Array, ""],
    ):
        sizes = {"num_characters": num_characters, "embedding_size": embedding_size, "channels": channels}
        for name, value in [*sizes.items(), *(("a width", width) for width in widths)]:
            if value < 1:
                raise ValueError(f"{name} is {value}; it is at least 1")
        if len(widths) == 0:
            raise ValueError("no widths: give the width of at least one filter, as widths=(3,)")
        first, *rest = jax.random.split(key, 1 + len(widths))
        self.embedding = eqx.nn.Embedding(num_characters, embedding_size, dtype=dtype, key=first)
        self.convolutions = tuple(
            eqx.nn.Conv1d(
                embedding_size, channels, width, padding=(((width - 1) // 2, width // 2),), dtype=dtype, key=key_
            )
            for width, key_ in zip(widths, rest, strict=True)
        )
        self.activation = activation
        self.output_size = channels * len(widths)

    def __call__(self, characters: Int[Array, "time character"], *, key=None) -> Float[Array, "time feature"]:
        """Return the features of each word.

        Args:
            characters: ids in 0 … num_characters − 1, where 0 is padding, to the right or the left of the word. How much
                there is makes no difference; a word of nothing else gives zeros.
            key: not used; there for `eqx.nn.Sequential`.

        Raises:
            ValueError: an array that is not (time, character) of integers.
        """
        if characters.ndim != 2 or not jnp.issubdtype(characters.dtype, jnp.integer):
            raise ValueError(
                f"characters are {characters.dtype} of shape {characters.shape}; wanted integers (time, character)"
            )
        # A character has one score for each place in a filter: as tables these are small, and what is left is to look
        # them up and add. Convolutions take three times as long on CPUs, thirty times within the compiled loop of a fit.
        real = jnp.arange(self.embedding.num_embeddings)[:, None] > 0
        embedded = jnp.where(real, self.embedding.weight, 0)  # padding is nothing, whatever it is embedded as
        tables = [jnp.einsum("ce,fej->jcf", embedded, convolve.weight) for convolve in self.convolutions]
        return jax.vmap(partial(self._word, tables))(characters)

    def _word(self, tables, characters):
        size, scores = len(characters), []
        for table, convolve in zip(tables, self.convolutions, strict=True):
            bias: Any = convolve.bias
            width = len(table)
            around = jnp.pad(characters, ((width - 1) // 2, width // 2))
            found = sum(table[j][around[j : j + size]] for j in range(width))
            scores.append(found + bias.T)
        used = characters > 0
        highest = jnp.where(used[:, None], jnp.concatenate(scores, 1), -jnp.inf).max(axis=0, initial=-jnp.inf)
        # a word of padding has no highest score; choose one before the activation, whose gradient at −inf may be NaN
        return jnp.where(used.any(), self.activation(jnp.where(used.any(), highest, 0)), 0)
