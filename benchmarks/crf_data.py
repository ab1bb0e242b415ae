"""The data of the CRF benchmark: sentences of CoNLL-2000 with their features, and dense potentials.

CoNLL-2000 (Tjong Kim Sang and Buchholz 2000) is text of the Wall Street Journal, which is not ours to pass on: give the
folder with its train.txt and test.txt. The features are the same for everybody: words at −2 … 2 and pairs of them at
(−1, 0) and (0, 1), part-of-speech tags at −2 … 2, pairs and triples of them within −2 … 2, nothing where a window leaves
the sentence, and BOS and EOS. All are yes or no and speak of the label of one token.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np


class Corpus(NamedTuple):
    """Sentences: their tokens, (word, tag), and their labels."""

    tokens: list[list[tuple[str, str]]]
    labels: list[list[str]]

    @property
    def num_tokens(self) -> int:
        return sum(map(len, self.tokens))


def read(folder: str, part: str, limit: int | None = None) -> Corpus:
    """The sentences of `part` ("train" or "test"), or the first `limit` of them."""
    blocks = (Path(folder) / f"{part}.txt").read_text().strip().split("\n\n")[:limit]
    rows = [[line.split() for line in block.splitlines()] for block in blocks]
    return Corpus(
        [[(word, tag) for word, tag, _ in sentence] for sentence in rows],
        [[label for _, _, label in sentence] for sentence in rows],
    )


def template_texts() -> list[str]:
    """The windows in the language of CRF++, for templates(…, boundaries=True)."""
    windows = [[(d, column)] for d in range(-2, 3) for column in (0, 1)]
    windows += [[(a, 0), (a + 1, 0)] for a in (-1, 0)]
    windows += [[(a, 1), (a + 1, 1)] for a in range(-2, 2)]
    windows += [[(a, 1), (a + 1, 1), (a + 2, 1)] for a in range(-2, 1)]
    texts = ["/".join(f"%x[{row},{column}]" for row, column in window) for window in windows]
    return [f"U{n:02}:{text}" for n, text in enumerate(texts)]


def names(sentence: list[tuple[str, str]]) -> list[list[str]]:
    """The same as lists of names, one for each token, as someone writes it for CRFsuite."""
    words, tags = zip(*sentence, strict=True)
    size = len(words)
    found = []
    for i in range(size):
        here = [f"w0={words[i]}", f"p0={tags[i]}"]
        left, right = i > 0, i + 1 < size
        far_left, far_right = i > 1, i + 2 < size
        if left:
            here += [f"w-1={words[i - 1]}", f"p-1={tags[i - 1]}", f"ww-1={words[i - 1]}|{words[i]}"]
            here.append(f"pp-1={tags[i - 1]}|{tags[i]}")
        else:
            here.append("BOS")
        if right:
            here += [f"w1={words[i + 1]}", f"p1={tags[i + 1]}", f"ww0={words[i]}|{words[i + 1]}"]
            here.append(f"pp0={tags[i]}|{tags[i + 1]}")
        else:
            here.append("EOS")
        if far_left:
            here += [f"w-2={words[i - 2]}", f"p-2={tags[i - 2]}", f"pp-2={tags[i - 2]}|{tags[i - 1]}"]
            here.append(f"ppp-2={tags[i - 2]}|{tags[i - 1]}|{tags[i]}")
        if far_right:
            here += [f"w2={words[i + 2]}", f"p2={tags[i + 2]}", f"pp1={tags[i + 1]}|{tags[i + 2]}"]
            here.append(f"ppp0={tags[i]}|{tags[i + 1]}|{tags[i + 2]}")
        if left and right:
            here.append(f"ppp-1={tags[i - 1]}|{tags[i]}|{tags[i + 1]}")
        found.append(here)
    return found


class Dense(NamedTuple):
    """Potentials of 64 sequences of 100 steps, float32, and paths through them."""

    node: np.ndarray
    pair: np.ndarray
    path: np.ndarray
    loss: float  # Σ log Z − score(path), in float64


# Σ log Z in float64, by the number of labels
LOG_PARTITION = {25: 27365.22360795, 100: 35775.89777448}


def dense(labels: int) -> Dense:
    """Draw them."""
    rng = np.random.default_rng(0)
    node, pair = rng.standard_normal((64, 100, labels)), rng.standard_normal((labels, labels))
    path = rng.integers(0, labels, (64, 100))
    score = np.take_along_axis(node, path[..., None], 2).sum() + pair[path[:, :-1], path[:, 1:]].sum()
    single = np.float32
    return Dense(node.astype(single), pair.astype(single), path, LOG_PARTITION[labels] - float(score))
