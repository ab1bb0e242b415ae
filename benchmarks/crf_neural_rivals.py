"""torch's and pytorch-crf's side of the neural tasks of the CRF benchmark."""

import os
import time

import numpy as np
import torch
import torchcrf
from measure import peak


class Tagger(torch.nn.Module):
    """Embedding, dropout, bidirectional LSTM, dropout, linear map, CRF."""

    def __init__(self, hidden, embedding, labels, vocabulary):
        super().__init__()
        self.embedding = torch.nn.Embedding(vocabulary, embedding)
        self.lstm = torch.nn.LSTM(embedding, hidden, bidirectional=True, batch_first=True)
        self.output = torch.nn.Linear(2 * hidden, labels)
        self.dropout = torch.nn.Dropout(0.5)
        self.crf = torchcrf.CRF(labels, batch_first=True)

    def forward(self, words, tags, mask):
        """The mean of −log p(tags | words)."""
        read, _ = self.lstm(self.dropout(self.embedding(words)))
        return -self.crf(self.output(self.dropout(read)), tags, mask, reduction="mean")


def step(watch, batch, time_, hidden, embedding, labels, vocabulary, steps, epochs):
    """The same steps: gradient, clipping, Adam."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    rng = np.random.default_rng(0)
    words = torch.from_numpy(rng.integers(0, vocabulary, (steps, batch, time_)))
    tags = torch.from_numpy(rng.integers(0, labels, words.shape))
    mask = torch.ones(batch, time_, dtype=torch.bool)
    net = Tagger(hidden, embedding, labels, vocabulary)
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-3)
    clocks = []
    for _ in range(epochs):
        for some_words, some_tags in zip(words, tags, strict=True):
            optimiser.zero_grad()
            net(some_words, some_tags, mask).backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), 5.0)
            optimiser.step()
        clocks.append((time.perf_counter(), time.process_time()))
    wall, cpu = (np.diff(clock) / steps for clock in zip(*clocks, strict=True))
    return {"wall": wall.tolist(), "cpu": cpu.tolist(), "peak": peak()}


TASKS = {"step": step}
