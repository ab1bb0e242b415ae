"""How a posterior is explored: the no-U-turn sampler and stochastic variational inference.

A method takes a NumPyro program, that is a function whose `numpyro.sample` statements define a joint density p(z, data)
over continuous unknowns z, and returns draws of z given the data. NUTS simulates Hamiltonian dynamics and is exact in
the limit of many draws; SVI fits a parametric density q by maximising the evidence lower bound

    ELBO(q) = E_q[log p(z, data) − log q(z)] ≤ log p(data)

and draws from q. Both run as loops compiled once: the program's arrays, the data and the learning rate are arguments
of module-level compiled functions, so a second call with equal shapes compiles nothing. A program that is an
`eqx.Module` (or a bound method of one) is recognised by its structure, a plain function by its identity.
"""

import abc
import enum
import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree
from numpyro.diagnostics import effective_sample_size, split_gelman_rubin
from numpyro.infer import Trace_ELBO, init_to_uniform
from numpyro.infer.autoguide import AutoNormal
from numpyro.infer.hmc import hmc
from numpyro.infer.util import constrain_fn, initialize_model, potential_energy

from ..forms.chain import on_device
from ..inference.compiling import filter_jit

R_HAT_LIMIT = 1.05
ESS_LIMIT = 100.0


class Status(enum.Enum):
    """What the diagnostics of a set of draws say, as advice."""

    CONVERGED = "converged: the diagnostics found nothing to object to"
    NOT_CONVERGED = "R-hat above 1.05 or fewer than 100 effective draws: more warm-up, more draws, or a simpler model"
    DIVERGENCES = "trajectories diverged: raise target_accept, or rescale or reparametrise the model"
    DEPTH_LIMIT = "converged, but most trajectories stopped at max_tree_depth: standardise the data or raise the limit"
    STILL_IMPROVING = "the ELBO was still rising when the steps ran out: more steps or a larger learning_rate"
    FAILED = "the log-density is not finite: look for impossible data, too wide priors or too large a learning_rate"


class Diagnostics(eqx.Module):
    """Evidence for or against a set of draws.

    Attributes:
        r_hat: for each quantity the largest split R-hat of its entries (Gelman et al., Bayesian Data Analysis, 2013,
            §11.4); NaN when there are fewer than four draws per chain. Empty for independent draws.
        effective_sample_size: for each quantity the smallest effective number of draws of its entries.
        divergences: how many of the kept NUTS trajectories diverged.
        depth_limit_share: share of the kept NUTS trajectories that were cut at `max_tree_depth`.
        improvement: for SVI, by how many nats the mean ELBO rose between the halves of the last quarter of the steps,
            over which the guide's parameters are averaged.
        improvement_error: standard error of `improvement`, the steps taken as independent.
        finite: whether every draw has a finite log-density.
    """

    r_hat: dict[str, float] = eqx.field(default_factory=dict)
    effective_sample_size: dict[str, float] = eqx.field(default_factory=dict)
    divergences: int = 0
    depth_limit_share: float = 0.0
    improvement: float = 0.0
    improvement_error: float = 0.0
    finite: bool = True

    @property
    def status(self) -> Status:
        """The most serious objection, or `Status.CONVERGED`."""
        if not self.finite:
            return Status.FAILED
        if self.divergences:
            return Status.DIVERGENCES
        # `not <=` rather than `>`: NaN, from chains too short to judge, must not pass
        mixed = all(r <= R_HAT_LIMIT for r in self.r_hat.values())
        if not (mixed and all(n >= ESS_LIMIT for n in self.effective_sample_size.values())):
            return Status.NOT_CONVERGED
        # a tenth of a nat is immaterial to a posterior, however many steps prove it real
        if self.improvement > max(0.1, 3 * self.improvement_error):
            return Status.STILL_IMPROVING
        return Status.DEPTH_LIMIT if self.depth_limit_share > 0.5 else Status.CONVERGED


class Draws(eqx.Module):
    """Draws from a posterior, and what speaks for them.

    Attributes:
        samples: for each sample site of the program its values, shape (draw, …); chains follow one another.
        history: log joint density of each draw in the unconstrained space, shape (draw,), from NUTS; the ELBO estimate
            of each step, shape (step,), from SVI.
        diagnostics: see `Diagnostics`.
        num_chains: how many chains the draws came from; 0 for independent draws.
        iterations: NUTS transitions per chain, warm-up included, or SVI steps.
    """

    samples: dict[str, Float[Array, "draw ..."]]
    history: Float[Array, " step"]
    diagnostics: Diagnostics
    num_chains: int = eqx.field(static=True)
    iterations: int = eqx.field(static=True)

    @property
    def status(self) -> Status:
        """What the diagnostics say, as advice."""
        return self.diagnostics.status

    def judged_by(self, quantities: dict[str, Float[Array, "draw ..."]]) -> "Draws":
        """Replace R-hat and effective sample size by those of other functions of the draws.

        Weights of a network and states of a mixture can be permuted without changing the model, so that chains which
        agree on every prediction disagree on the parameters: judge the predictions then.
        """
        if not self.num_chains:
            return self
        r_hat, effective = mixing(quantities, self.num_chains)
        return eqx.tree_at(
            lambda draws: (draws.diagnostics.r_hat, draws.diagnostics.effective_sample_size),
            self,
            (r_hat, effective),
            is_leaf=lambda node: isinstance(node, dict),
        )


class AbstractPosterior(eqx.Module):
    """What every posterior made of draws can tell about them."""

    draws: eqx.AbstractVar[Draws]

    @property
    def status(self) -> Status:
        """What the diagnostics say, as advice."""
        return self.draws.status

    @property
    def diagnostics(self) -> Diagnostics:
        """R-hat and effective sample sizes of what can be compared between chains, and what the method noticed."""
        return self.draws.diagnostics

    @property
    def history(self) -> Float[Array, " step"]:
        """Log joint density of each draw (NUTS) or the ELBO estimate of each step (SVI)."""
        return self.draws.history

    @property
    def iterations(self) -> int:
        """NUTS transitions per chain, warm-up included, or SVI steps."""
        return self.draws.iterations


def mixing(
    quantities: dict[str, Float[Array, "draw ..."]], num_chains: int
) -> tuple[dict[str, float], dict[str, float]]:
    """Largest split R-hat and smallest effective sample size over the entries of each quantity.

    Entries that never change carry no evidence and are left out; entries that are stuck at a different value in each
    chain have infinite R-hat.
    """
    r_hat, effective = {}, {}
    for name, value in quantities.items():
        draws = np.asarray(value, dtype=np.float64)
        entries = draws.reshape(num_chains, draws.shape[0] // num_chains, -1)
        entries = entries[..., np.ptp(entries, axis=(0, 1)) > 0]
        if not entries.size:
            continue
        if entries.shape[1] < 4:
            r_hat[name], effective[name] = np.nan, np.nan
            continue
        with np.errstate(divide="ignore", invalid="ignore"):
            r_hat[name] = float(np.max(split_gelman_rubin(entries)))
            effective[name] = float(np.min(effective_sample_size(entries)))
    return r_hat, effective


class AbstractMethod(eqx.Module):
    """A way to draw from the posterior of a NumPyro program."""

    @abc.abstractmethod
    def draws(self, key: Array, program: Callable, *args: PyTree, progress: bool = False) -> Draws:
        """Draw from p(sites of `program` | its observed sites).

        Args:
            key: a `jax.random.key`.
            program: a NumPyro program whose unobserved sites are continuous. To compile once, pass an `eqx.Module`, a
                bound method of one, or the same function object every time, and the data through `args`.
            args: what the program is called with; arrays in it are traced.
            progress: whether to show a bar.

        Example:
            >>> import jax, jax.numpy as jnp, numpyro, numpyro.distributions as dist
            >>> from chainrule import bayes
            >>> def program(y):
            ...     mean = numpyro.sample("mean", dist.Normal(0.0, 1.0))
            ...     numpyro.sample("y", dist.Normal(mean, 1.0), obs=y)
            >>> method = bayes.NUTS(num_warmup=200, num_samples=200)
            >>> draws = method.draws(jax.random.key(0), program, jnp.array([1.0, 2.0, 3.0]))
            >>> draws.samples["mean"].shape, draws.status.name
            ((400,), 'CONVERGED')
        """


class NUTS(AbstractMethod):
    """The no-U-turn sampler: Hamiltonian Monte Carlo that chooses its own path length and step size.

    Args:
        num_warmup: transitions per chain that adapt the step size and the diagonal mass matrix, then are discarded.
        num_samples: draws kept per chain.
        num_chains: independent chains, run side by side on one device; R-hat compares them.
        max_tree_depth: a trajectory has at most 2^max_tree_depth − 1 leapfrog steps.
        target_accept: acceptance rate in (0, 1) that the step size is tuned to.
        initial: where chains start, a NumPyro `init_to_…` strategy.

    Raises:
        ValueError: a count below one, or a rate outside (0, 1).

    Example:
        >>> from chainrule import bayes
        >>> bayes.NUTS(num_warmup=200, num_chains=4).num_samples
        500

    Reference: Hoffman and Gelman, "The No-U-Turn Sampler", Journal of Machine Learning Research 15, 2014.
    """

    num_warmup: int = eqx.field(static=True, default=500)
    num_samples: int = eqx.field(static=True, default=500)
    num_chains: int = eqx.field(static=True, default=2)
    max_tree_depth: int = eqx.field(static=True, default=10)
    target_accept: float = eqx.field(default=0.8, converter=float)
    initial: Callable = eqx.field(static=True, default=init_to_uniform)

    def __check_init__(self):
        for name in ("num_warmup", "num_samples", "num_chains", "max_tree_depth"):
            _check_count(name, getattr(self, name))
        if not 0 < self.target_accept < 1:
            raise ValueError(f"target_accept is {self.target_accept}; a rate between 0 and 1, such as 0.8, is wanted")

    def draws(self, key: Array, program: Callable, *args: PyTree, progress: bool = False) -> Draws:
        """Run the chains; see `AbstractMethod.draws`."""
        problem = _traced(self, program, args)
        states, kept = _nuts_begin(problem, key)
        total = self.num_warmup + self.num_samples
        for start, stop in _blocks(total, progress):
            states, kept = _nuts_advance(problem, states, kept, start, stop)
        samples = _nuts_constrain(problem, kept[0])
        r_hat, effective = mixing(samples, self.num_chains)
        log_densities, leapfrogs, diverging = (np.asarray(x) for x in kept[1:])  # on the host: nothing to compile
        diagnostics = Diagnostics(
            r_hat=r_hat,
            effective_sample_size=effective,
            divergences=int(diverging.sum()),
            depth_limit_share=float((leapfrogs >= 2**self.max_tree_depth - 1).mean()),
            finite=bool(np.isfinite(log_densities).all()),
        )
        history = jax.device_put(log_densities.T.reshape(-1))
        return Draws(samples, history, diagnostics, self.num_chains, total)


class SVI(AbstractMethod):
    """Stochastic variational inference: the best approximation of the posterior within a parametric family.

    Adam climbs a one-draw estimate of the ELBO at a constant rate; the guide's parameters are averaged over the last
    quarter of the steps (Polyak and Juditsky, 1992), which removes most of the noise the constant rate leaves.
    A mean-field guide, the default, underestimates the variances of correlated unknowns and tends to underfit wide
    networks: compare with NUTS, or with a guide that models correlations, when it matters.

    Args:
        steps: how many gradient steps.
        learning_rate: Adam's step size in the unconstrained space.
        num_samples: independent draws taken from the fitted guide.
        guide: a function of the program that returns a NumPyro automatic guide: a class such as
            `numpyro.infer.autoguide.AutoMultivariateNormal`, or `functools.partial` of one.

    Raises:
        ValueError: a count below one, or a learning rate that is not positive.

    Example:
        >>> from chainrule import bayes
        >>> from numpyro.infer.autoguide import AutoMultivariateNormal
        >>> bayes.SVI(steps=2000, guide=AutoMultivariateNormal).learning_rate
        0.01

    Reference: Kucukelbir et al., "Automatic Differentiation Variational Inference", Journal of Machine Learning
    Research 18, 2017.
    """

    steps: int = eqx.field(static=True, default=5000)
    learning_rate: float = eqx.field(default=1e-2, converter=float)
    num_samples: int = eqx.field(static=True, default=500)
    guide: Callable = eqx.field(static=True, default=AutoNormal)

    def __check_init__(self):
        _check_count("steps", self.steps)
        _check_count("num_samples", self.num_samples)
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate is {self.learning_rate}; a positive number such as 0.01 is wanted")

    def draws(self, key: Array, program: Callable, *args: PyTree, progress: bool = False) -> Draws:
        """Fit the guide and draw from it; see `AbstractMethod.draws`."""
        fit_key, draw_key = jax.random.split(key)
        problem = (*_traced(self, program, args), fit_key)
        carry = _svi_begin(problem)
        for start, stop in _blocks(self.steps, progress):
            carry = _svi_advance(problem, carry, start, stop)
        _, average, history = carry
        samples = _svi_sample(problem, average, draw_key)
        elbos = np.asarray(history)
        finite = bool(np.isfinite(elbos[-1]) and all(np.isfinite(x).all() for x in samples.values()))
        half = self.steps // 8
        before, after = elbos[self.steps - 2 * half :].reshape(2, half)
        diagnostics = Diagnostics(finite=finite)
        if finite and half > 1:
            diagnostics = Diagnostics(
                improvement=float(after.mean() - before.mean()),
                improvement_error=float(np.sqrt((after.var(ddof=1) + before.var(ddof=1)) / half)),
            )
        return Draws(samples, history, diagnostics, 0, self.steps)


# --- NUTS, compiled -------------------------------------------------------------------------------------------------


class _Kernel:
    """NUTS on the concatenation of all unconstrained sites: one array compiles and runs faster than a dictionary."""

    def __init__(self, method: NUTS, program, args):
        def start(key):
            strategy = {"init_strategy": method.initial, "model_args": args, "validate_grad": False}
            return initialize_model(key, program, **strategy).param_info.z

        leaves, tree = jax.tree.flatten(jax.eval_shape(start, jax.random.key(0)))
        ends = np.cumsum([leaf.size for leaf in leaves])

        def sites(position):
            parts = jnp.split(position, ends[:-1])
            return tree.unflatten([part.reshape(leaf.shape) for part, leaf in zip(parts, leaves, strict=True)])

        init, self.step = hmc(lambda position: potential_energy(program, args, {}, sites(position)))
        self.init = functools.partial(
            init,
            num_warmup=method.num_warmup,
            target_accept_prob=method.target_accept,
            max_tree_depth=method.max_tree_depth,
        )
        self.start = lambda key: ravel_pytree(start(key))[0]
        self.constrain = lambda position: constrain_fn(program, args, {}, sites(position), return_deterministic=True)
        # NumPyro's step function reads the adaptation schedule that `init` leaves behind, so `init` always comes first.
        jax.eval_shape(lambda key: self.init(self.start(key)), jax.random.key(0))


def _record(states):
    return states.z, -states.potential_energy, states.num_steps, states.diverging


@filter_jit
def _nuts_begin(problem, key):
    """Start every chain from a point of finite density, if a hundred tries find one, and lay out the record."""
    method, kernel = problem[0], _Kernel(*problem)

    def begin(key):
        start_key, chain_key = jax.random.split(key)
        return kernel.init(kernel.start(start_key), rng_key=chain_key)

    # one chain after another: batching the search for a start doubles its compile time and it takes microseconds to run
    states = jax.lax.map(begin, jax.random.split(key, method.num_chains))
    kept = jax.tree.map(lambda x: jnp.zeros((method.num_samples, *x.shape), x.dtype), _record(states))
    return states, kept


@filter_jit
def _nuts_advance(problem, states, kept, start, stop):
    method, kernel = problem[0], _Kernel(*problem)

    def transition(i, carry):
        states, kept = carry
        states = jax.vmap(kernel.step)(states)
        # warm-up draws all land in slot 0, which the first kept draw overwrites: one loop body, compiled once
        slot = jnp.maximum(i - method.num_warmup, 0)
        return states, jax.tree.map(lambda rows, row: rows.at[slot].set(row), kept, _record(states))

    return jax.lax.fori_loop(start, stop, transition, (states, kept))


@filter_jit
def _nuts_constrain(problem, positions):
    """From (draw, chain, entry) to each site's constrained values, chains one after another."""
    kernel = _Kernel(*problem)
    flat = positions.swapaxes(0, 1).reshape(-1, positions.shape[-1])
    return jax.vmap(kernel.constrain)(flat)


# --- SVI, compiled --------------------------------------------------------------------------------------------------


def _svi(method: SVI, program, args, key):
    """NumPyro's SVI object and its first state. Guides learn the program's sites in `init`, so every trace calls it."""
    guide = method.guide(program)
    svi = numpyro.infer.SVI(program, guide, numpyro.optim.Adam(method.learning_rate), Trace_ELBO())
    return svi, guide, svi.init(key, *args)


@filter_jit
def _svi_begin(problem):
    svi, _, state = _svi(*problem)
    average = svi.optim.get_params(state.optim_state)
    return state, average, jnp.zeros(problem[0].steps)


@filter_jit
def _svi_advance(problem, carry, start, stop):
    method, _, args, _ = problem
    svi, _, _ = _svi(*problem)
    averaged_from = method.steps - method.steps // 4

    def step(i, carry):
        state, average, history = carry
        state, loss = svi.stable_update(state, *args)
        params = svi.optim.get_params(state.optim_state)
        weight = 1 / (jnp.maximum(i - averaged_from, 0) + 1).astype(history.dtype)
        average = jax.tree.map(lambda mean, new: mean + (new - mean) * weight.astype(new.dtype), average, params)
        return state, average, history.at[i].set(-loss)

    return jax.lax.fori_loop(start, stop, step, carry)


@filter_jit
def _svi_sample(problem, average, draw_key):
    method, _, args, _ = problem
    svi, guide, _ = _svi(*problem)
    params = svi.constrain_fn(average)  # pyright: ignore[reportOptionalCall]  (`init` sets it)
    return guide.sample_posterior(draw_key, params, *args, sample_shape=(method.num_samples,))


# --- shared ---------------------------------------------------------------------------------------------------------


def _traced(method, program, args) -> tuple[Any, Callable, tuple]:
    """Turn rates and data into arrays, so that new values do not compile anew; counts stay static."""

    def as_array(leaf):
        return on_device(leaf) if eqx.is_array_like(leaf) else leaf

    return jax.tree.map(as_array, method), program, jax.tree.map(as_array, args)


def _blocks(total: int, progress: bool):
    """Cut 0 … total into the stretches that run on the device without a word: one, or about fifty with a bar.

    The bounds are arrays: were they Python numbers, every block would compile anew.
    """
    if not progress:
        yield jnp.asarray(0), jnp.asarray(total)
        return
    from tqdm.auto import tqdm

    size = -(-total // 50)
    with tqdm(total=total) as bar:
        for start in range(0, total, size):
            stop = min(start + size, total)
            yield jnp.asarray(start), jnp.asarray(stop)
            bar.update(stop - start)


def _check_count(name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise ValueError(f"{name} is {value!r}; a whole number of at least 1 is wanted")
