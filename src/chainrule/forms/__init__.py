"""What an engine eats: frozen arrays, free of networkx."""
