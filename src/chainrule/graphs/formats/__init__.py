"""Reading and writing graphs in formats of others."""
