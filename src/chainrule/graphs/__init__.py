"""What a model is: networkx graphs in, networkx graphs out."""

from .label_graphs import bio_graph, bioes_graph

__all__ = ["bio_graph", "bioes_graph"]
