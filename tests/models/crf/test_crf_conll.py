"""CoNLL-2000, whose text may not be passed on: `CHAINRULE_CONLL2000` names a folder that has its train.txt."""

import math
import os
from pathlib import Path

import pytest

import chainrule as cr

FOLDER = os.environ.get("CHAINRULE_CONLL2000")


@pytest.mark.skipif(not FOLDER, reason="set CHAINRULE_CONLL2000 to a folder with train.txt of CoNLL-2000")
def test_the_objective_at_zero():
    """All 22 labels are alike at each of 211,727 tokens, whatever the features."""
    blocks = (Path(str(FOLDER)) / "train.txt").read_text().strip().split("\n\n")
    rows = [[tuple(line.split()) for line in block.splitlines()] for block in blocks]
    x, y = [[row[:2] for row in one] for one in rows], [[row[2] for row in one] for one in rows]
    labels = sorted({tag for tags in y for tag in tags})
    crf = cr.LinearChainCRF(labels, [cr.templates("%x[0,0]", "%x[0,1]", "%x[-1,1]/%x[0,1]")])
    fit = crf.fit(x, y, method=cr.LBFGS(l2=1.0, max_iterations=1))
    assert (len(x), fit.num_observations, len(labels)) == (8936, 211_727, 22)
    assert 211_727 * math.log(22) == pytest.approx(654_457.1455, abs=1e-4)
    assert -fit.history[0] == pytest.approx(654_457.1455, rel=1e-6)
    assert fit.history[1] > fit.history[0]
