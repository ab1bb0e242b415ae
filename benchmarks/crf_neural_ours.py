"""chainrule's side of the neural tasks of the CRF benchmark, with the network written as a user would write it.

The network (Huang, Xu and Yu 2015; Ma and Hovy 2016): a word is what its lower-cased form, its part-of-speech tag (which is
part of the task's input) and its spelling are embedded as; the spelling by a character CNN. Nothing is pretrained. A
bidirectional LSTM reads the sentence, a linear map scores the labels, the CRF does the rest. In training half of the
entries before and after the LSTM are dropped, and half of the words that training has only once are made unknown.
"""

import re
import sys
import time
from collections import Counter

import crf_data
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from crf_ours import quality
from measure import peak

import chainrule as cr


class Vocabulary:
    """Numbers of words, tags and characters; 0 is an unknown word or tag and no character, 1 an unknown character."""

    def __init__(self, sentences, longest=20):
        words = Counter(_lower(word) for sentence in sentences for word, _ in sentence)
        self.words = {word: n for n, word in enumerate(words, 1)}
        self.once = np.array([False, *(count == 1 for count in words.values())])
        self.tags = {tag: n for n, tag in enumerate(sorted({tag for s in sentences for _, tag in s}), 1)}
        self.characters = {c: n for n, c in enumerate(sorted({c for s in sentences for word, _ in s for c in word}), 2)}
        self.longest = longest

    def __call__(self, sentence):
        """The arrays that the network is called with."""
        spelling = np.zeros((len(sentence), self.longest), np.int32)
        half = self.longest // 2
        for n, (word, _) in enumerate(sentence):
            ends = word if len(word) <= self.longest else word[:half] + word[-half:]
            spelling[n, : len(ends)] = [self.characters.get(c, 1) for c in ends]
        words = [self.words.get(_lower(word), 0) for word, _ in sentence]
        tags = [self.tags.get(tag, 0) for _, tag in sentence]
        return np.array(words, np.int32), np.array(tags, np.int32), spelling


def _lower(word):
    return re.sub(r"\d", "0", word.lower())


class Tagger(eqx.Module):
    """From words, tags and spelling to potentials of labels."""

    word: eqx.nn.Embedding
    tag: eqx.nn.Embedding
    spelling: cr.neural.CharacterCNN
    lstm: cr.neural.Recurrent
    output: eqx.nn.Linear
    dropout: eqx.nn.Dropout
    once: jax.Array

    def __init__(self, vocabulary, num_labels, *, word=100, tag=25, character=25, channels=50, hidden=100, key):
        keys = jax.random.split(key, 5)

        def table(size, width, key):
            return eqx.nn.Embedding(weight=0.3 * jax.random.normal(key, (size, width)))

        self.word = table(len(vocabulary.words) + 1, word, keys[0])
        self.tag = table(len(vocabulary.tags) + 1, tag, keys[1])
        size = len(vocabulary.characters) + 2
        self.spelling = cr.neural.CharacterCNN(size, character, channels, widths=(3,), key=keys[2])
        self.lstm = cr.neural.LSTM(word + tag + channels, hidden, bidirectional=True, key=keys[3])
        self.output = eqx.nn.Linear(2 * hidden, num_labels, key=keys[4])
        self.dropout = eqx.nn.Dropout(0.5)
        self.once = jnp.asarray(vocabulary.once)

    def __call__(self, words, tags, spelling, *, mask, start, key, inference):
        keys = (None,) * 3 if key is None else jax.random.split(key, 3)
        if key is not None:  # what is unknown at prediction has to be met in training
            unknown = self.once[words] & jax.random.bernoulli(keys[0], 0.5, words.shape)
            words = jnp.where(unknown, 0, words)
        found = [jax.vmap(self.word)(words), jax.vmap(self.tag)(tags), self.spelling(spelling)]
        inputs = self.dropout(jnp.concatenate(found, 1), key=keys[1], inference=inference)
        read = self.lstm(inputs, mask=mask, start=start)
        return jax.vmap(self.output)(self.dropout(read, key=keys[2], inference=inference))


def neural(watch, path, seed, epochs, held_out, mixed=False, limit=None):
    """A fit whose epoch is chosen on held-out sentences of the training set, and what it is worth on the test set."""
    everything, test = (crf_data.read(path, part, limit) for part in ("train", "test"))
    order = np.random.default_rng(0).permutation(len(everything.tokens))  # the same for every seed
    parts = order[held_out:], order[:held_out]
    train, valid = (
        crf_data.Corpus([everything.tokens[n] for n in p], [everything.labels[n] for n in p]) for p in parts
    )
    labels = sorted({label for sentence in everything.labels for label in sentence})
    vocabulary = Vocabulary(train.tokens)
    network_key, fit_key = jax.random.split(jax.random.key(seed))
    network = Tagger(vocabulary, len(labels), key=network_key)
    features = [cr.neural_feature(network, vocabulary)]
    if mixed:
        features.append(cr.templates(*crf_data.template_texts(), boundaries=True))
    crf = cr.LinearChainCRF(labels, features, transitions=cr.bio_graph(labels))
    began = time.perf_counter()

    def score(model):
        f1 = quality(valid, model.predict(valid.tokens))["f1"]
        sys.stderr.write(f"seed {seed}: held-out F1 {100 * f1:.2f} after {time.perf_counter() - began:.0f} s\n")
        return f1

    method = cr.MiniBatch(epochs=epochs, batch_size=32, learning_rate=2e-3, decay=0.02, average=0.998)
    with watch("fit"):
        fit = crf.fit(train.tokens, train.labels, method=method, key=fit_key, validation=cr.Validation(score))
    with watch("predict"):
        predicted = fit.model.predict(test.tokens)
    return {
        "epoch": int(fit.validation.argmax()) + 1,
        "valid": float(fit.validation.max()),
        "parameters": fit.num_parameters,
        "peak": peak(),
        **quality(test, predicted),
    }


def step(watch, batch, time_, hidden, embedding, labels, vocabulary, steps, epochs):
    """Training steps of a plain BiLSTM-CRF on random words: the seconds of each epoch of a fit, over its steps."""
    rng = np.random.default_rng(0)
    words = rng.integers(0, vocabulary, (batch * steps, time_), dtype=np.int32)
    tags = rng.integers(0, labels, words.shape)
    keys = jax.random.split(jax.random.key(0), 3)
    network = cr.neural.SequenceTagger(
        eqx.nn.Embedding(vocabulary, embedding, key=keys[0]), labels, hidden_size=hidden, dropout=0.5, key=keys[1]
    )
    crf = cr.LinearChainCRF(range(labels), [cr.neural_feature(network, np.asarray)])
    clocks = []

    def look(model):
        clocks.append((time.perf_counter(), time.process_time()))

    method = cr.MiniBatch(epochs=epochs, batch_size=batch, one_per_row=True)
    crf.fit(list(words), tags.tolist(), method=method, key=keys[2], validation=cr.Validation(look))
    wall, cpu = (np.diff(clock) / steps for clock in zip(*clocks, strict=True))  # the first epoch held the compiling
    return {"wall": wall.tolist(), "cpu": cpu.tolist(), "peak": peak()}


TASKS = {"neural": neural, "step": step}
