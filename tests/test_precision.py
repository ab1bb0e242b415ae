"""No product of an engine or a model may be left to the precision that a device prefers: see `forms/products.py`.

Programs are traced, not compiled: what is looked for stands in them on every device.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zoo

import chainrule as cr
from chainrule.forms.layouts import Bipartite
from chainrule.inference import bellman, decoding, gibbs, mean_field, parallel, recall
from chainrule.inference import chain as chain_engine
from chainrule.models.recommender import reconstruct

CHAIN = cr.Chain(jnp.zeros(2), jnp.zeros((2, 2)), jnp.zeros((4, 2)))
KEY = jax.random.key(0)
SPINS = jnp.ones((4, 3), jnp.int8)
DENSE = zoo.boltzmann_machine().form
LAYERS = cr.Pairwise(jnp.zeros(4), Bipartite(jnp.ones((2, 2))), spins=True)
PROCESS = zoo.decision_process().transitions
UNITS = jnp.ones((3, 2))


def asked(model, x):
    """What a model of sequences is asked about."""
    return model.log_prob(x), model.posterior(x).marginals, jax.grad(lambda m: m.log_prob(x))(model)


PROGRAMS = {
    "marginals": lambda: chain_engine.marginals(CHAIN),
    "filter": lambda: chain_engine.filter(CHAIN),
    "entropy": lambda: chain_engine.entropy(CHAIN),
    "paths": lambda: chain_engine.sample(KEY, CHAIN, num_samples=2),
    "viterbi": lambda: decoding.viterbi(CHAIN),
    "parallel": lambda: parallel.marginals(CHAIN),
    "gibbs, dense": lambda: gibbs.sweep(KEY, SPINS, DENSE),
    "gibbs, layers": lambda: gibbs.sweep(KEY, SPINS, LAYERS),
    "energies": lambda: (DENSE.energy(SPINS), LAYERS.energy(SPINS)),
    "mean field": lambda: mean_field.mean_field(0.5 * jnp.ones((4, 3)), DENSE),
    "asynchronous recall": lambda: recall.asynchronous(jnp.ones((3, 3)), jnp.ones(3), UNITS, KEY, max_sweeps=2),
    "synchronous recall": lambda: recall.synchronous(jnp.ones((3, 3)), jnp.ones(3), UNITS, max_sweeps=2),
    "decision process": lambda: bellman.solve(PROCESS, tolerance=1e-3),
    "policy": lambda: bellman.evaluate(PROCESS, jnp.zeros(3, jnp.int32)),
    "retrieval": lambda: cr.retrieve(jnp.ones((4, 3)), jnp.ones((2, 3)), 1.0),
    "recommender": lambda: reconstruct(zoo.recommender()[0], KEY, jnp.ones((3, 2, 2)), jnp.ones((3, 2)), 1),
    **{
        e.name: lambda e=e: asked(e.make(), jnp.asarray(e.data, jnp.float32))
        for e in zoo.HMMS[4:]
        if "bern" not in e.name
    },
    **{e.name: lambda e=e: zoo.score_of_rows(e.make(), e.data) for e in zoo.MACHINES},
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_products_keep_the_precision_of_their_dtype(name):
    program = jax.make_jaxpr(lambda: jax.tree.leaves(PROGRAMS[name]()))()
    loose = [str(e) for e in equations(program.jaxpr) if is_loose(e)]
    assert not loose, "\n".join(loose)


def test_a_product_left_alone_is_found():
    """The check itself: through a loop and a jitted function, but not sums of products of vectors or of integers."""
    ones = jnp.ones((2, 2))
    left = jax.make_jaxpr(lambda x: jax.lax.fori_loop(0, 3, lambda _, y: jax.jit(jnp.dot)(y, x), x))(ones)
    fine = jax.make_jaxpr(lambda x: (jnp.dot(x[0], x[1]), jnp.dot(x.astype(int), x.astype(int))))(ones)
    assert sum(map(is_loose, equations(left.jaxpr))) == 1
    assert not any(map(is_loose, equations(fine.jaxpr)))


def equations(jaxpr):
    """All equations of a program, also those inside of loops and calls."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=is_program):
            if is_program(inner):
                yield from equations(getattr(inner, "jaxpr", inner))


def is_program(x):
    return hasattr(x, "eqns")


def is_loose(equation):
    if equation.primitive.name != "dot_general":
        return False
    product = equation.outvars[0].aval
    floats = jnp.issubdtype(product.dtype, jnp.floating)
    return floats and product.ndim > 0 and set(np.ravel(equation.params["precision"])) != {jax.lax.Precision.HIGHEST}
