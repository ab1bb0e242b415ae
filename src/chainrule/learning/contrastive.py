"""Contrastive divergence and its persistent relatives: how machines with hidden units are fitted.

The gradient of a machine's log-likelihood is a difference of two means of the same statistics,

    ∂ log p(v) / ∂θ = ⟨−∂F/∂θ⟩_data − ⟨−∂F/∂θ⟩_machine,

with F the free energy. The second mean needs samples of the machine, and methods differ in where these come from: `CD`
takes a few sweeps from each row of data, `PCD` lets chains of its own go on from step to step. The classes hold settings;
a model that is fitted by them says how its sweeps are made.

References:
    Hinton (2002), Training products of experts by minimizing contrastive divergence.
    Tieleman (2008), Training restricted Boltzmann machines using approximations to the likelihood gradient.
    Tieleman and Hinton (2009), Using fast weights to improve persistent contrastive divergence.
    Desjardins et al. (2010), Tempered Markov chain Monte Carlo for training of restricted Boltzmann machines.
    Melchior, Fischer and Wiskott (2016), How to center deep Boltzmann machines.
    Hinton (2012), A practical guide to training restricted Boltzmann machines.
"""

from typing import Any

import equinox as eqx


class AbstractContrastive(eqx.Module):
    """Settings that all contrastive methods share; see `CD` and `PCD`."""

    epochs: int = 20
    batch_size: int = eqx.field(default=100, static=True)
    learning_rate: float = 0.05
    sweeps: int = 1
    decay: float = 0.0
    momentum: float | None = None
    l2: float = 0.0
    sparsity_target: float = 0.1
    sparsity_cost: float = 0.0
    centred: bool = eqx.field(default=True, static=True)
    optimiser: Any = eqx.field(default=None, static=True)

    def __check_init__(self):
        name = type(self).__name__
        for field in ("epochs", "batch_size", "sweeps"):
            if getattr(self, field) < 1:
                raise ValueError(f"{name}: {field} is {getattr(self, field)}; at least one is needed")
        if not self.learning_rate > 0:
            raise ValueError(f"{name}: learning_rate is {self.learning_rate}; it must be positive")
        for field in ("decay", "l2", "sparsity_cost"):
            if not 0 <= getattr(self, field) < float("inf"):
                raise ValueError(f"{name}: {field} is {getattr(self, field)}; it must be a number from 0 on")
        if self.momentum is not None and not 0 <= self.momentum < 1:
            raise ValueError(f"{name}: momentum is {self.momentum}; it must be from 0 to below 1, or None")
        if not 0 < self.sparsity_target < 1:
            raise ValueError(f"{name}: sparsity_target is {self.sparsity_target}; it is a probability between 0 and 1")


class CD(AbstractContrastive):
    """Contrastive divergence: the machine's samples are `sweeps` sweeps away from each row of data (Hinton 2002).

    The method where rows miss different entries, since each row's machine is its own. It trains features well and
    densities badly: places far from all data are never visited, and so never made unlikely.

    Args:
        epochs: how often each row is seen.
        batch_size: rows of a step.
        learning_rate: step size to begin with; it falls linearly to `decay` of that.
        sweeps: k of CD-k.
        decay: share of the learning rate that is left at the end.
        momentum: share of a step that the next one goes on with.
        l2: weight decay, of the weights only: the penalty is l2/2 · Σ W².
        sparsity_target: how often a hidden unit should be on.
        sparsity_cost: weight of the cross-entropy between that and how often it is (Hinton 2012, section 11).
        centred: take the gradient for variables around their means, which makes it independent of whether pixels or their
            complements are 1 (Melchior et al. 2016). It changes the path of a fit, not what a machine means. Where entries
            are missing only hidden units are centred.
        optimiser: any `optax.GradientTransformation` instead, which brings its own step sizes. They are told apart by
            identity: keep the object for the next fit, since a new one is compiled anew.

    Raises:
        ValueError: a setting outside its range.

    Example:
        >>> import chainrule as cr, jax, numpy as np
        >>> rows = np.array([[1, 1, np.nan], [0, 0, 0], [1, np.nan, 1], [0, 0, np.nan]] * 10)
        >>> rbm = cr.RBM.random(jax.random.key(0), 3, 1, data=rows, scale=0.5)
        >>> fit = rbm.fit(rows, method=cr.CD(epochs=300, batch_size=10, learning_rate=0.5), key=jax.random.key(1))
        >>> bool(fit.model.conditionals([1, 1, np.nan], sites=[2])[0, 1] > 0.9)  # what is missing goes with the others
        True
    """


class PCD(AbstractContrastive):
    """Persistent contrastive divergence: chains that go on from step to step (Tieleman 2008).

    With `fast_rate` the chains see additional weights that learn fast and decay fast, which drives them away from where
    they were (Tieleman and Hinton 2009). With `temperatures` above 1 each chain has so many copies, from the machine
    itself up to units without couplings, that exchange their states (parallel tempering; Desjardins et al. 2010).

    Args:
        epochs: as for `CD`.
        batch_size: as for `CD`.
        learning_rate: as for `CD`.
        sweeps: sweeps of the chains in each step.
        decay: as for `CD`; persistent chains need rates that end small.
        momentum: as for `CD`.
        l2: as for `CD`.
        sparsity_target: as for `CD`.
        sparsity_cost: as for `CD`.
        centred: as for `CD`.
        optimiser: as for `CD`.
        chains: how many chains.
        fast_rate: learning rate of the fast weights; None does without.
        fast_decay: what is left of them after each step.
        temperatures: copies of each chain, at inverse temperatures evenly spaced from 1 to 0.

    Raises:
        ValueError: a setting outside its range, or fast weights with several temperatures.

    Example:
        >>> import chainrule as cr
        >>> cr.PCD(chains=50, epochs=10, learning_rate=0.05).chains
        50
    """

    chains: int = eqx.field(default=100, static=True)
    fast_rate: float | None = None
    fast_decay: float = 0.95
    temperatures: int = eqx.field(default=1, static=True)

    def __check_init__(self):
        for field in ("chains", "temperatures"):
            if getattr(self, field) < 1:
                raise ValueError(f"PCD: {field} is {getattr(self, field)}; at least one is needed")
        if self.fast_rate is not None and not self.fast_rate > 0:
            raise ValueError(f"PCD: fast_rate is {self.fast_rate}; it must be positive, or None for no fast weights")
        if not 0 <= self.fast_decay < 1:
            raise ValueError(f"PCD: fast_decay is {self.fast_decay}; it must be from 0 to below 1")
        if self.fast_rate is not None and self.temperatures > 1:
            raise ValueError("PCD: fast weights and several temperatures serve the same end: choose one of them")
