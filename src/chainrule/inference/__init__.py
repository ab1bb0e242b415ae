"""Engines: arrays in, arrays out; each works under `jit`, `vmap` and `grad`."""
