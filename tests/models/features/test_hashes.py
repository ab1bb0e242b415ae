"""Many strings looked up at once, against a dict."""

import numpy as np
import pytest

import chainrule as cr
from chainrule.models.features import named_attributes
from chainrule.models.features.hashes import Hashes


@pytest.mark.parametrize("size", [0, 1, 2, 1000])
def test_a_dict_says_the_same(size):
    """A thousand names are some two hundred buckets of two and more."""
    rng = np.random.default_rng(size)
    names = [f"name={n}" for n in range(size)]
    wanted = [f"name={n}" for n in rng.integers(2 * size + 1, size=300)] + ["", "é", "\udce9"]
    number = {name: n for n, name in enumerate(names)}
    np.testing.assert_array_equal(Hashes(names).find(wanted), [number.get(name, -1) for name in wanted])
    assert Hashes(names).find([]).shape == (0,)


def test_attributes_are_found_either_way(monkeypatch):
    index, _ = cr.attributes().learn([[["a", "b"], ["c"]], [["b"]]])
    sentences = [[["b", "z"], [], ["a", "a", "c"]], [["y"]]]
    wanted = index.matrices(sentences).node.toarray()
    monkeypatch.setattr(named_attributes, "MANY", 0)
    np.testing.assert_array_equal(index.matrices(sentences).node.toarray(), wanted)
    with pytest.raises(ValueError, match="the name of an attribute is a string"):
        index.matrices([[["a", 3]]])
