"""Which label may follow which, where labels mark spans: BIO and BIOES.

A label is O, outside every span, or a letter and the type of a span, as in B-PER: B begins a span, I is inside, E ends
it, S is a span of a single token. Both schemes come down to two sentences: I and E continue the span of the label
before; every other label needs that span to be over. In BIO a span may be over after any label, in BIOES only after
O, E and S.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from .labels import first_duplicate

if TYPE_CHECKING:
    import networkx as nx

_CONTINUE = frozenset("IE")
_OPEN = frozenset("BI")


def bio_graph(labels: Iterable[str]) -> "nx.DiGraph":
    """Return the transitions that BIO (IOB2) allows: I-X comes after B-X or I-X only.

    Args:
        labels: "O", and "B-X" or "I-X" for types X, in the order that the nodes shall have. "B" and "I" alone are
            labels of spans without a type.

    Returns:
        A graph with an edge for each pair of labels that may follow one another. Each node has `initial` (a sequence may
        start with it) and `final` (a sequence may end with it); in BIO every label is final.

    Raises:
        ValueError: no labels, a label twice, one that does not fit the scheme, or one that no sequence can contain, as
            I-X where B-X is missing. The message names the label.

    Example:
        >>> import chainrule as cr
        >>> graph = cr.bio_graph(["O", "B-PER", "I-PER"])
        >>> sorted(graph.predecessors("I-PER"))
        ['B-PER', 'I-PER']
        >>> [label for label, initial in graph.nodes(data="initial") if initial]
        ['O', 'B-PER']

    Reference: Tjong Kim Sang and Veenstra, "Representing Text Chunks", EACL 1999, where the scheme is called IOB2.
    """
    return _graph(labels, scheme="BIO", final=frozenset("BIO"))


def bioes_graph(labels: Iterable[str]) -> "nx.DiGraph":
    """Return the transitions that BIOES allows: what B-X begins goes on with I-X and ends with E-X; S-X stands alone.

    Args:
        labels: "O", and "B-X", "I-X", "E-X" or "S-X" for types X, in the order that the nodes shall have. The letters
            alone are labels of spans without a type.

    Returns:
        A graph as of `bio_graph`; here a sequence may end with O, E-X and S-X only.

    Raises:
        ValueError: as `bio_graph`.

    Example:
        >>> import chainrule as cr
        >>> graph = cr.bioes_graph(["O", "B-PER", "I-PER", "E-PER", "S-PER"])
        >>> sorted(graph.successors("B-PER"))
        ['E-PER', 'I-PER']
        >>> [label for label, final in graph.nodes(data="final") if final]
        ['O', 'E-PER', 'S-PER']

    Reference: Ratinov and Roth, "Design Challenges and Misconceptions in Named Entity Recognition", CoNLL 2009.
    """
    return _graph(labels, scheme="BIOES", final=frozenset("OES"))


def _graph(labels: Iterable[str], *, scheme: str, final: frozenset[str]) -> "nx.DiGraph":
    import networkx as nx

    if isinstance(labels, str):
        raise ValueError(f"labels is the string {labels!r}; give a list of labels, as ['O', 'B-X', 'I-X']")
    labels = list(labels)
    if not labels:
        raise ValueError("no labels: a label graph needs at least one")
    parts = {label: _split(label, scheme) for label in labels}
    if len(parts) < len(labels):
        raise ValueError(f"label {first_duplicate(labels)!r} is there twice")

    graph = nx.DiGraph()
    for label, (letter, _) in parts.items():
        graph.add_node(label, initial=letter not in _CONTINUE, final=letter in final)
    for u, (before, its_type) in parts.items():
        for v, (letter, type_) in parts.items():
            goes_on = before in _OPEN and its_type == type_
            if goes_on if letter in _CONTINUE else before in final:
                graph.add_edge(u, v)
    _check_use(graph, parts)
    return graph


def _split(label: str, scheme: str) -> tuple[str, str]:
    """The letter and the type of a label."""
    letter, _, type_ = label.partition("-") if isinstance(label, str) else ("", "", "")
    if len(letter) != 1 or letter not in scheme or (letter == "O" and label != "O"):
        forms = ", ".join(f"{other}-X" for other in scheme if other != "O")
        advice = "; for that there is bioes_graph" if letter in {"E", "S"} else ""
        raise ValueError(f"label {label!r} does not fit {scheme}: labels are O and {forms}{advice}")
    return letter, type_


def _check_use(graph: "nx.DiGraph", parts: dict[str, tuple[str, str]]):
    """Every label must lie on a way from an initial label to a final one."""
    import networkx as nx

    begun = {v for u, initial in graph.nodes(data="initial") if initial for v in [u, *nx.descendants(graph, u)]}
    ended = {v for u, final in graph.nodes(data="final") if final for v in [u, *nx.ancestors(graph, u)]}
    for label, (_, type_) in parts.items():
        for reached, letter in ((begun, "B"), (ended, "E")):
            if label not in reached:
                missing = f"{letter}-{type_}" if type_ else letter
                raise ValueError(
                    f"no sequence can contain label {label!r}, because {missing!r} is not among the labels"
                )
