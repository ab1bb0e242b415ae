"""What a model is: networkx graphs in, networkx graphs out."""
