"""Posteriors over models and networks, by NumPyro."""
