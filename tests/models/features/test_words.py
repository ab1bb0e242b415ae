"""The helpers for extract functions."""

import pytest

from chainrule.models.features import prefix, shape, suffix, window


def test_ends_of_words():
    assert (prefix("word", 2), prefix("word", 9), prefix("word", 0), prefix("", 2)) == ("wo", "word", "", "")
    assert (suffix("word", 2), suffix("word", 9), suffix("word", 0), suffix("", 2)) == ("rd", "word", "", "")


@pytest.mark.parametrize(
    ("word", "wanted"),
    [("Xxxx", "Xx"), ("ÉCOLE", "X"), ("straße", "x"), ("12345678", "dddd"), ("a1b22", "xdxdd"), ("--", "--"), ("", "")],
)
def test_shapes(word, wanted):
    assert shape(word) == wanted


def test_windows():
    assert window([("a", "X"), ("b", "Y")], 0, 5) == {"0[0]": "a", "1[0]": "X", "0[1]": "b", "1[1]": "Y"}
    assert window([{"w": "a"}, {"w": "b"}], 1, 1) == {"w[-1]": "a", "w[0]": "b"}
    assert window(["a", "b"], 1, 0, str.upper) == {"word[0]": "B"}
    with pytest.raises(ValueError, match="token 1 is described by a int"):
        window(["a", 3], 0, 1)
