# %% [markdown]
# # Quickstart: a century of earthquakes
#
# How many major earthquakes does a year bring? The counts from 1900 to 2006 scatter far more than a Poisson
# distribution allows, and busy years come together. A *hidden Markov model* says why: the Earth passes through a few
# regimes that we do not see, and each regime has its own rate.
#
# $$ p(z, x) = p(z_0) \prod_{t \ge 1} p(z_t \mid z_{t-1}) \prod_t \mathrm{Poisson}(x_t \mid \lambda_{z_t}) $$
#
# This tour fits that model, looks inside it, forecasts with it, and then puts it to use in the other layers of the
# library: inside a NumPyro program, under a sampler, beside a Bayesian neural network, and with a neural network in it.
#
# Run it as a script (`python tutorials/quickstart.py --quick --out figures`) or cell by cell in an editor.

# %%
import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
from matplotlib.patches import Circle
from scipy.stats import poisson

import chainrule as cr

parser = argparse.ArgumentParser(description="A tour of chainrule on a century of earthquakes.")
parser.add_argument("--quick", action="store_true", help="fewer restarts and posterior draws")
parser.add_argument("--out", type=Path, default=Path("figures"), help="folder for the figures (default: figures)")
args, _ = parser.parse_known_args()  # a notebook has arguments of its own
args.out.mkdir(parents=True, exist_ok=True)

# The library follows whatever precision JAX is set to. The published figures have seven digits, so ask for 64 bits.
jax.config.update("jax_enable_x64", True)
key = jax.random.key(1906)

DATA = Path(__file__).parent / "data" if "__file__" in globals() else Path("tutorials/data")
INK, GREY = "#22303C", "#9AA5AE"
NAMES = ("calm", "usual", "active")
COLOURS = ("#0072B2", "#D55E00", "#009E73")  # the first three of chainrule.plotting
plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "axes.titlelocation": "left"})


def heading(text):
    print(f"\n{text}\n{'-' * len(text)}")


def save(figure, name):
    figure.savefig(args.out / f"quickstart_{name}.png", dpi=150)
    plt.close(figure)


# %% [markdown]
# ## Fit
#
# Expectation–maximisation from twenty starting points, run side by side; the best end wins. The published values are
# maximum-likelihood fits with a free initial distribution (data: Zucchini & MacDonald 2009, see `data/README.md`).

# %%
years, counts = np.loadtxt(DATA / "earthquakes.csv", delimiter=",", skiprows=1, unpack=True)
years = years.astype(int)
PUBLISHED = {1: 391.9189, 2: 341.8787, 3: 328.5275}

fits = {}
for num_states in PUBLISHED:
    start = cr.HMM.random(key, num_states, cr.emissions.Poisson())
    fit = start.fit(counts, method=cr.EM(tolerance=1e-12), restarts=5 if args.quick else 20, key=key)
    order = np.argsort(fit.model.emission.rate)  # nothing numbers hidden states, so number them by their rates
    fits[num_states] = eqx.tree_at(lambda f: f.model, fit, fit.model.permute(order))

heading("Poisson hidden Markov models of 107 yearly counts")
print("states   -log L   published      AIC      BIC   rates")
for num_states, fit in fits.items():
    rates = "  ".join(f"{rate:.3f}" for rate in fit.model.emission.rate)
    print(f"{num_states:6d} {-fit.log_prob:9.4f}   {PUBLISHED[num_states]:.4f} {fit.aic:8.2f} {fit.bic:8.2f}   {rates}")
best_aic, best_bic = (min(fits, key=lambda k, c=c: getattr(fits[k], c)) for c in ("aic", "bic"))
print(
    f"AIC prefers {best_aic} states, BIC {best_bic}, the latter by {abs(fits[2].bic - fits[3].bic):.1f}: close to a tie"
)

# %% [markdown]
# ## Decode
#
# The model is a frozen object that holds its parameters. Give the states names, and every answer can be read by them.

# %%
fitted = fits[3].model
hmm = cr.HMM(fitted.initial, fitted.transition, fitted.emission, states=NAMES)
posterior = hmm.posterior(counts)
path = hmm.viterbi(counts)

heading(f"Decoded: {hmm!r}")
begins = np.flatnonzero(np.diff(path.states, prepend=-1))
spells = list(zip(begins, [*begins[1:], len(years)], strict=True))
for state, name in enumerate(NAMES):
    spans = [f"{years[a]}-{years[b - 1]}" for a, b in spells if path.states[a] == state]
    print(f"{name:>7}, {hmm.emission.rate[state]:4.1f} a year: {', '.join(spans)}")
print(f"how sure of 1943: P(active) = {posterior['active'][years == 1943].item():.4f}")
print(
    f"doubt about the whole path: {hmm.entropy(counts).item():.1f} nats, {np.exp(hmm.entropy(counts)):.2g} paths' worth"
)


# %%
def year_axis(ax, first=1900, last=2000, step=10):
    ticks = np.arange(first, last + 1, step)
    ax.set_xticks(ticks - 1900, ticks)
    ax.set_xlabel("")


figure, (top, bottom) = plt.subplots(2, 1, figsize=(10, 5.6), height_ratios=(2.4, 1), layout="constrained")
cr.plotting.series(counts, path.states, hmm.emission.rate, states=NAMES, ax=top)
year_axis(top)
top.set(ylabel="major earthquakes in the year", ylim=(0, 44))
top.set_title("Three regimes, each lasting years, explain the counts\n\n")
cr.plotting.trellis(posterior.marginals, states=NAMES, ax=bottom)
year_axis(bottom)
bottom.set_xlim(top.get_xlim())
for label, colour in zip(bottom.get_yticklabels(), COLOURS, strict=True):
    label.set_color(colour)
bottom.set_title("The posterior is sure of most years; it doubts where regimes meet")
save(figure, "decoded")

# %% [markdown]
# The transitions are a graph, in networkx and out again: `hmm.graph()` is an `nx.DiGraph`, and `HMM.from_graph` reads
# one. Beside it, the counts against what the three regimes together say they should be.

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.6), layout="constrained")
shown = hmm.graph()
shown.remove_edges_from([(u, v) for u, v, p in hmm.graph().edges(data="probability") if p < 5e-4])
cr.plotting.transition_graph(shown, ax=left)
circles = [patch for patch in left.patches if isinstance(patch, Circle)]
for circle, colour in zip(circles, COLOURS, strict=True):
    circle.set(edgecolor=colour, linewidth=2.5)
left.set_title("Regimes last, and active years never turn calm at once")

share = posterior.marginals.mean(0)
grid = np.arange(0, 46)
parts = share * poisson.pmf(grid[:, None], np.asarray(hmm.emission.rate))
observed = np.bincount(counts.astype(int), minlength=46)
right.bar(grid, observed, width=0.9, color="#DDE3E8", label="years observed")
for part, name, colour in zip(parts.T, NAMES, COLOURS, strict=True):
    right.plot(grid, 107 * part, color=colour, linewidth=2, label=name)
right.plot(grid, 107 * parts.sum(1), color=INK, linewidth=1.3, linestyle="--", label="all three")
right.plot(grid, 107 * poisson.pmf(grid, counts.mean()), color=GREY, linewidth=1.3, linestyle=":", label="one Poisson")
right.set(xlabel="major earthquakes in a year", ylabel="number of years")
right.set_title("One Poisson distribution is too narrow; three fit")
right.legend(frameon=False)
save(figure, "regimes")

# %% [markdown]
# ## Forecast
#
# Filtering carries what the past says about the present; one more transition gives the state of next year, and the
# rates turn that into a forecast of the count. It can be checked: the USGS counted 18 for 2007.

# %%
filtered = hmm.filter(counts)
next_year = filtered.forecast @ poisson.pmf(grid, np.asarray(hmm.emission.rate)[:, None])
low, high = (int(np.searchsorted(next_year.cumsum(), q)) for q in (0.05, 0.95))

heading("Forecast for 2007")
print("state:", ", ".join(f"{name} {p:.3f}" for name, p in zip(NAMES, filtered.forecast, strict=True)))
print(f"count: {next_year @ grid:.1f} expected, 90 % between {low} and {high}; the year brought 18")
surprise = years[np.argmin(filtered.log_constants)]
print(f"the year that surprised the model most: {surprise}, with {int(counts[years == surprise].item())} earthquakes")

# %% [markdown]
# ## Missing years
#
# NaN is missing, everywhere: the engine sums over what it does not see. Take the 1950s away and ask what they were.

# %%
holed = np.where((years >= 1950) & (years < 1960), np.nan, counts)
blind = hmm.posterior(holed)
hidden = np.isnan(holed)
cumulative = np.cumsum(blind.marginals @ poisson.pmf(grid, np.asarray(hmm.emission.rate)[:, None]), axis=1)
expected = blind.marginals @ np.asarray(hmm.emission.rate)
band = np.stack([(cumulative < q).sum(1) for q in (0.05, 0.95)])
covered = ((band[0] <= counts) & (counts <= band[1]))[hidden].sum()

heading("The 1950s, unseen")
print(f"log p(what is left) = {blind.log_prob:.4f}; of the 10 hidden counts {covered} lie in their 90 % bands")
print("P(active), 1950 to 1959:", " ".join(f"{p:.2f}" for p in blind["active"][hidden]))

figure, (top, bottom) = plt.subplots(2, 1, figsize=(10, 5.6), sharex=True, height_ratios=(1.8, 1), layout="constrained")
window = slice(40, 71)
top.plot(years[window], holed[window], color=INK, marker="o", markersize=4, linewidth=1, label="counts seen")
top.plot(years[hidden], counts[hidden], "o", color=INK, fillstyle="none", markersize=5, label="counts hidden")
top.fill_between(years[hidden], *band[:, hidden], color=GREY, alpha=0.3, linewidth=0, label="90 % predictive band")
top.plot(years[hidden], expected[hidden], color=INK, linewidth=1.5, linestyle="--", label="expected count")
top.set(ylabel="major earthquakes in the year", ylim=(0, 48))
top.legend(frameon=False, ncols=4, loc="lower left", bbox_to_anchor=(0, 1.0))
top.set_title(f"Ten years are hidden; {covered} of their counts fall inside the model's 90 % band\n\n")
bottom.stackplot(years[window], blind.marginals[window].T, colors=COLOURS, labels=NAMES, alpha=0.85, linewidth=0)
bottom.set(ylabel="posterior probability", ylim=(0, 1), xlim=(1939.7, 1970.3))
for ax in (top, bottom):
    ax.axvline(1949.5, color=INK, linewidth=0.8, linestyle=":")
    ax.axvline(1959.5, color=INK, linewidth=0.8, linestyle=":")
bottom.set_title("The regime of the hidden years is inferred from both sides")
bottom.legend(frameon=True, facecolor="white", edgecolor="none", ncols=3, loc="lower right")
save(figure, "missing")

# %% [markdown]
# ## Several sequences, of any lengths
#
# Every query and every fit takes one array, a list of arrays, or packed `cr.Sequences`. Cut the century in 1914 and in
# 1945: each piece now starts afresh.

# %%
pieces = np.split(counts, [years.tolist().index(1914), years.tolist().index(1945)])
refit = hmm.fit(pieces)

heading("Three sequences of different lengths")
print("lengths:", *map(len, pieces), "| log p of each:", *(f"{value:.2f}" for value in hmm.log_prob(pieces)))
print("first state of each:", *(labels[0] for labels in hmm.viterbi(pieces).labels))
print(f"fitted together: {refit!r}")

# %% [markdown]
# ## Save and load
#
# One file, without pickle: safe to load from a stranger.

# %%
cr.save(args.out / "earthquakes.npz", hmm)
again = cr.load(args.out / "earthquakes.npz")
heading("Saved and loaded")
print(f"{again!r} with states {again.states}; same log p: {again.log_prob(counts) == hmm.log_prob(counts)}")

# %% [markdown]
# ## Inside a NumPyro program
#
# The three rates, 13.1, 19.7 and 29.7, look like a ladder: each about 1.5 times the one below. Write that down as a
# NumPyro program with two numbers, `base` and `growth`, in place of three rates. The model is built *inside* the
# program; `as_distribution` sums its hidden states out, exactly, so that NUTS sees a smooth density.


# %%
def ladder(x):
    base = numpyro.sample("base", dist.LogNormal(np.log(15.0), 0.5))
    step = 1 + numpyro.sample("growth", dist.LogNormal(-0.5, 0.5))
    stay_put = jnp.ones((3, 3)) + 8 * jnp.eye(3)
    transition = numpyro.sample("transition", dist.Dirichlet(stay_put).to_event(1))
    regimes = cr.HMM(jnp.full(3, 1 / 3), transition, cr.emissions.Poisson(base * step ** jnp.arange(3)))
    numpyro.sample("x", cr.bayes.as_distribution(regimes, len(x)), obs=x)


draws = 300 if args.quick else 600
sampler = numpyro.infer.MCMC(
    numpyro.infer.NUTS(ladder), num_warmup=draws, num_samples=draws, num_chains=1, progress_bar=False
)
sampler.run(key, jnp.asarray(counts))
steps = 1 + sampler.get_samples()["growth"]
steps_low, steps_high = np.quantile(steps, [0.05, 0.95])

heading("A ladder of rates, as a NumPyro program")
print(f"each regime is {steps.mean():.2f} times as busy as the last (90 %: {steps_low:.2f} to {steps_high:.2f})")

# %% [markdown]
# ## Credible intervals
#
# Without a hypothesis of our own, `bayes.posterior` samples all the parameters. What it returns is *one model whose
# arrays have a leading axis of draws*, so anything that can be asked of a model can be asked of the posterior, by
# `jax.vmap`. The states of all draws are matched to each other; which is which we read off the rates.

# %%
sampled = cr.bayes.posterior(
    cr.HMM.random(key, 3, cr.emissions.Poisson()),
    counts,
    method=cr.bayes.NUTS(num_warmup=draws, num_samples=draws, num_chains=1),
    key=key,
)
rates = np.asarray(sampled.models.emission.rate)
forecasts = np.asarray(jax.vmap(lambda model: model.filter(jnp.asarray(counts)).forecast)(sampled.models))
expected_next = (forecasts * rates).sum(1)
rates = rates[:, rates.mean(0).argsort()]

heading("Posterior of all parameters")
print(
    f"{sampled.status.name}: {min(sampled.diagnostics.effective_sample_size.values()):.0f} effective draws at the least"
)
for name, column, point in zip(NAMES, rates.T, hmm.emission.rate, strict=True):
    lower, upper = np.quantile(column, [0.05, 0.95])
    print(f"{name:>7}: rate {point:5.1f}, 90 % between {lower:5.1f} and {upper:5.1f}")
print(
    f"expected count of 2007: {expected_next.mean():.1f}, 90 % between {np.quantile(expected_next, 0.05):.1f} and "
    f"{np.quantile(expected_next, 0.95):.1f}, with the doubt about the parameters"
)

# %% [markdown]
# ## A Bayesian neural network beside it
#
# Somebody may object that there are no regimes, only a rate that drifts. A Bayesian neural network can say that: any
# Equinox module, with priors on its weights and a likelihood of our choice.

# %%
century = ((years - 1953) / 30)[:, None]
network = eqx.nn.MLP(1, "scalar", 8, 1, activation=jnp.tanh, key=key)
drift = cr.bayes.BNN(
    network, prior=dist.Normal(0.0, 2.0), likelihood=lambda outputs: dist.Poisson(19.4 * jnp.exp(outputs))
).fit(century, counts, method=cr.bayes.NUTS(draws, draws, num_chains=1, max_tree_depth=6), key=key)
ahead = np.arange(1900, 2031)
curves = np.asarray(drift.predict(((ahead - 1953) / 30)[:, None]).components.rate)

heading("A smooth drift instead of regimes, as a Bayesian neural network")
spread = {year: np.quantile(curves[:, ahead == year], [0.05, 0.95]) for year in (2000, 2030)}
for year, (low_rate, high_rate) in spread.items():
    print(f"rate in {year}: 90 % between {low_rate:.1f} and {high_rate:.1f}")

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.8), width_ratios=(1, 1.2), layout="constrained")
bins = np.linspace(10, 36, 53)
for column, point, name, colour in zip(rates.T, np.asarray(hmm.emission.rate), NAMES, COLOURS, strict=True):
    left.hist(column, bins, color=colour, alpha=0.75, density=True, label=name)
    left.axvline(point, color=INK, linewidth=1.2, linestyle="--")
left.plot([], [], color=INK, linewidth=1.2, linestyle="--", label="maximum likelihood")
left.set(xlabel="rate, earthquakes a year", yticks=[])
left.spines.left.set_visible(False)
left.set_title("The rates of the regimes are known well enough to tell apart\n\n", fontsize=11)
left.legend(frameon=False, ncols=4, loc="lower left", bbox_to_anchor=(-0.02, 1.0), columnspacing=1, handlelength=1.5)
right.plot(years, counts, ".", color=GREY, markersize=4, label="counts")
right.fill_between(ahead, *np.quantile(curves, [0.05, 0.95], axis=0), color="#CC79A7", alpha=0.35, linewidth=0)
right.plot(ahead, curves.mean(0), color="#CC79A7", linewidth=2, label="network: mean and 90 % band")
right.plot(
    years, posterior.marginals @ np.asarray(hmm.emission.rate), color=INK, linewidth=1.4, label="regimes: E[rate]"
)
right.set(ylabel="major earthquakes in the year", ylim=(0, 45), xlim=(1900, 2030))
right.set_title("A network sees a drift, and knows that it cannot see ahead\n\n", fontsize=11)
right.legend(frameon=False, ncols=3, loc="lower left", bbox_to_anchor=(-0.02, 1.0))
save(figure, "bayes")

# %% [markdown]
# ## A neural network inside the model
#
# The emission can be any callable that scores the states, so it can be an Equinox module. Teach one to read the state
# from the count: simulate labelled years from the fitted model, and climb the conditional likelihood
#
# $$ \log p(z \mid x) = \log p(x, z) - \log p(x) $$
#
# by its exact gradient. With `known=` the engine gives the first term, without it the second.

# %%
settled = cr.MarkovChain(hmm.initial, hmm.transition, NAMES).stationary()
world = cr.HMM(settled, hmm.transition, hmm.emission, states=NAMES)
lesson_states, lesson = world.sample(key, 100, num_samples=20)
lesson_names = np.array(NAMES)[np.asarray(lesson_states)].tolist()
exam_states, exam = map(np.asarray, world.sample(jax.random.key(2007), 100, num_samples=20))


class Reader(eqx.Module):
    layers: eqx.nn.MLP

    def __call__(self, count):
        return self.layers((count - 19) / 8)


def reading(reader):
    return cr.HMM(world.initial, world.transition, cr.emissions.Score(reader, 3), states=NAMES)


optimiser = optax.adam(0.02)


@eqx.filter_jit
def learn(reader, memory):
    def loss(reader):
        model = reading(reader)
        return (model.log_prob(lesson) - model.log_prob(lesson, known=lesson_names)).mean()

    value, slope = eqx.filter_value_and_grad(loss)(reader)
    change, memory = optimiser.update(slope, memory)
    return eqx.apply_updates(reader, change), memory, value


reader = Reader(eqx.nn.MLP("scalar", 3, 16, 1, key=key))
memory = optimiser.init(eqx.filter(reader, eqx.is_inexact_array))
for _ in range(100 if args.quick else 300):
    reader, memory, value = learn(reader, memory)

heading("An Equinox module as the emission")
accuracy = {
    "network that learned": (reading(reader).viterbi(exam).states == exam_states).mean(),
    "model that simulated": (world.viterbi(exam).states == exam_states).mean(),
    "always the commonest": max(np.bincount(exam_states.ravel()) / exam_states.size),
}
for who, right_share in accuracy.items():
    print(f"{who}: {100 * right_share:.1f} % of the states right")

# %% [markdown]
# ## Where to go on
#
# `hidden_markov_models.py` tells the subject from the beginning: the three questions, learning and its local optima,
# structure by graphs, gradients, and what the engine guards against.

# %%
print(f"\nFigures: {', '.join(sorted(path.name for path in args.out.glob('quickstart_*.png')))} in {args.out}/")
