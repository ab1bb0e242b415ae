# %% [markdown]
# # Boltzmann machines, from the beginning
#
# A restricted Boltzmann machine gives every binary vector $v$ a probability. It has a layer of *hidden* units $h$, each of
# which says yes or no to a pattern in $v$:
#
# $$ p(v, h) = \frac{e^{-E(v, h)}}{Z}, \qquad E(v, h) = -a \cdot v - b \cdot h - v^\top W h $$
#
# Given $v$ the hidden units are independent, and given $h$ the visible ones are, so sampling goes back and forth between
# the layers. Summed over $h$ what is left is a product of experts, one factor for each hidden unit:
#
# $$ p(v) = \frac{e^{-F(v)}}{Z}, \qquad -F(v) = a \cdot v + \sum_j \log\big(1 + e^{\,b_j + v \cdot W_j}\big) $$
#
# The tutorial fits machines to handwritten digits, looks at what the hidden units learn, draws digits, completes and
# repairs them, finds out how good a machine is although $Z$ has $2^{784}$ terms, makes a classifier of one, and with units
# of five values a recommender.
#
# Run it as a script (`python tutorials/boltzmann_machines.py --quick --out figures`) or cell by cell in an editor.

# %%
import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import jax
import matplotlib.pyplot as plt
import numpy as np

import chainrule as cr

parser = argparse.ArgumentParser(description="Boltzmann machines, from the beginning.")
parser.add_argument("--quick", action="store_true", help="smaller machines, fewer epochs and sweeps")
parser.add_argument("--out", type=Path, default=Path("figures"), help="folder for the figures (default: figures)")
args, _ = parser.parse_known_args()  # a notebook has arguments of its own
args.out.mkdir(parents=True, exist_ok=True)

HERE = Path(__file__).parent if "__file__" in globals() else Path("tutorials")
INK, GREY, BLUE, ORANGE = "#22303C", "#9AA5AE", "#0072B2", "#D55E00"
plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "axes.titlelocation": "left"})

# random numbers are a good part of the work, and this generator is the fastest on CPUs
key = jax.random.key(1986, impl="philox2x32")


def heading(text):
    print(f"\n{text}\n{'-' * len(text)}")


def save(figure, name):
    figure.savefig(args.out / f"boltzmann_{name}.png", dpi=150)
    plt.close(figure)


def tiles(rows, columns, *, gap=2, blank=1.0):
    """Images (n, 784) side by side in one picture."""
    images = np.full((-(-len(rows) // columns) * columns, 28, 28), blank)
    images[: len(rows)] = np.asarray(rows, float).reshape(-1, 28, 28)
    images = np.pad(images, ((0, 0), (0, gap), (0, gap)), constant_values=blank)
    grid = images.reshape(-1, columns, 28 + gap, 28 + gap).swapaxes(1, 2)
    return grid.reshape(-1, columns * (28 + gap))[:-gap, :-gap]


def show(ax, rows, columns, *, title="", ink="Greys", limit=None):
    """Draw images: ink on paper, or weights from blue over white to red."""
    if limit is None:
        ax.imshow(tiles(rows, columns, blank=0.0), cmap=ink, vmin=0, vmax=1, interpolation="nearest")
    else:
        ax.imshow(tiles(rows, columns, blank=0.0), cmap=ink, vmin=-limit, vmax=limit, interpolation="nearest")
    ax.set_axis_off()
    ax.set_title(title, fontsize=10, color=INK)


# %% [markdown]
# ## 1. A machine by hand
#
# Two visible units and one hidden one that speaks for both: together they are on more often than chance would have it. The
# machine is small enough to be written out.

# %%
heading("A machine by hand")
tiny = cr.RBM([[2.0], [2.0]], visible_bias=[-1.0, -1.0], hidden_bias=[-1.0])
pairs = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
by_hand = np.exp(pairs.sum(1) * -1.0) * (1 + np.exp(-1.0 + 2.0 * pairs.sum(1)))
by_hand /= by_hand.sum()
for v, p, q in zip(pairs, np.exp(tiny.log_prob(pairs)), by_hand, strict=True):
    print(f"v = {v}: p = {p:.4f}, by hand {q:.4f}, the hidden unit is on with {tiny.features(v)[0]:.3f}")
print(f"log Z = {tiny.log_partition():.6f}")

# %% [markdown]
# ## 2. Digits
#
# `data/mnist_subset.npz` holds 2800 digits to learn from and 600 to test on, of MNIST. A pixel is on if its grey is above
# 127. Persistent contrastive divergence keeps a hundred chains of digit-like vectors, moves them by one sweep at each step,
# and makes the machine say *more* to the data and *less* to where the chains are.

# %%
heading("Digits")
with np.load(HERE / "data" / "mnist_subset.npz") as file:
    train, test = (file[f"{part}_images"].reshape(-1, 784) > 127 for part in ("train", "test"))
    train_labels, test_labels = file["train_labels"], file["test_labels"]
num_hidden, epochs = (48, 24) if args.quick else (196, 150)
learned = train[::3] if args.quick else train
start = cr.RBM.random(key, num_visible=784, num_hidden=num_hidden, data=learned)
rate = 0.1 if args.quick else 0.05
method = cr.PCD(epochs=epochs, chains=100, batch_size=50, learning_rate=rate, l2=2e-4)
fit = start.fit(learned, method=method, key=key)
rbm = fit.model
print(f"{rbm}: {fit.status.name} after {fit.iterations} steps")
alone = float(start.pseudo_log_prob(test).mean())
together = float(rbm.pseudo_log_prob(test).mean())
print(f"pseudo-likelihood of a test digit: pixels alone {alone:.1f}, the machine {together:.1f} nats")

# %% [markdown]
# What a hidden unit looks for are the weights into it: strokes, corners, places that must stay empty. Strong ones first.

# %%
weights = np.asarray(rbm.weights).T
strongest = np.argsort(-np.abs(weights).sum(1))[:60]
figure, ax = plt.subplots(figsize=(7.2, 3.3), layout="constrained")
show(ax, weights[strongest], 12, ink="RdBu_r", limit=float(np.quantile(np.abs(weights[strongest]), 0.995)))
ax.set_title("what hidden units look for: red for ink, blue for paper", fontsize=10, color=INK)
save(figure, "filters")

# %% [markdown]
# ## 3. New digits
#
# A chain that goes back and forth between the layers draws from the machine. Below temperature 1 draws are more typical and
# less various: colder still, and nearly all of them would be one kind of digit. Shown are the probabilities of the pixels
# given the last hidden units.

# %%
heading("New digits")
count, sweeps = (40, 200) if args.quick else (40, 3000)
draws = {
    t: rbm.sample(jax.random.fold_in(key, n), count, sweeps=sweeps, temperature=t) for n, t in enumerate((1.0, 0.85))
}
figure, axes = plt.subplots(3, 1, figsize=(7.2, 3.4), layout="constrained")
show(axes[0], test[:: len(test) // count][:count], 20, title="test digits")
for ax, (t, rows) in zip(axes[1:], draws.items(), strict=True):
    machine = rbm.tempered(t)
    hidden = np.asarray(machine.features(rows))
    soft = 1 / (1 + np.exp(-(np.asarray(machine.visible_bias) + hidden @ np.asarray(machine.weights).T)))
    show(ax, soft, 20, title=f"drawn at temperature {t}")
save(figure, "samples")
ink = {t: float(np.mean(rows)) for t, rows in draws.items()}
print(f"share of ink: test {test.mean():.3f}, drawn {ink[1.0]:.3f}")
energies = [float(np.mean(rbm.free_energy(rows))) for rows in (test, draws[1.0], draws[0.85])]
print("mean free energy: test {:.1f}, drawn {:.1f}, at temperature 0.85 {:.1f}".format(*energies))

# %% [markdown]
# ## 4. How good is it? A sandwich
#
# $\log p(v) = -F(v) - \log Z$, and $Z$ cannot be summed. Annealed importance sampling walks from a machine without weights
# to this one and weighs its walks; what it finds for $\log Z$ is too *small* on average. Walking back, from samples of the
# machine to the one without weights, it is too *large*. One of the two alone looks convincing when it is wrong; both
# together say how wrong they can be, up to chance, by which they may cross when they are close.
#
# A machine with 12 hidden units can be summed, which shows what the two ends are worth. They come within a few tenths of a
# nat, and no closer: the way back begins at chains that started from digits, and such chains hardly ever turn one kind of
# digit into another, so that each kind keeps the share that it has in the data instead of that in the machine. Hence a
# third look, `conservative_log_prob`, which trusts no samples: its mean is below the log-likelihood of a distribution that
# can be drawn from, the one that annealing makes.

# %%
heading("A sandwich")
small = cr.RBM.random(key, 784, 12, data=learned)
small = small.fit(learned, method=cr.PCD(epochs=epochs, batch_size=50, learning_rate=rate), key=key).model
exact = float(small.log_partition())
stops, walks = ((10, 150), 50) if args.quick else ((10, 30, 100, 300, 1000, 3000), 100)
ends = {}
for name, machine in (("12 hidden units", small), (f"{num_hidden} hidden units", rbm)):
    ends[name] = [
        machine.log_partition_bounds(key, learned, chains=walks, stops=n, burn_in=60 if args.quick else 1000)
        for n in stops
    ]
best = ends["12 hidden units"][-1]
print(f"12 units: exact log Z {exact:.3f}, between {best.lower:.3f} and {best.upper:.3f}: {best.status.name}")
best = ends[f"{num_hidden} hidden units"][-1]
low, high = best.log_prob(test)
print(
    f"{num_hidden} units: a test digit has log p between {low:.2f} and {high:.2f}: {best.status.name}, gap {best.gap:.2f}"
)
some = test[:: len(test) // walks]
below = rbm.conservative_log_prob(key, some, learned, stops=stops[-1])
print(f"of {len(some)} of them: at least {below.mean():.2f}, by the bounds {best.log_prob(some)[0]:.2f}")
bias = np.asarray(start.visible_bias, float)
independent = float((test @ bias).mean() - np.logaddexp(0, bias).sum())
print(f"pixels alone: {independent:.1f} nats; exactly, with 12 units: {small.log_prob(test).mean():.1f}")

figure, axes = plt.subplots(1, 2, figsize=(8.4, 3.4), layout="constrained")
for ax, (name, found) in zip(axes, ends.items(), strict=True):
    ax.plot(stops, [b.lower for b in found], "o-", color=BLUE, label="forward: too small")
    ax.plot(stops, [b.upper for b in found], "o-", color=ORANGE, label="reverse: too large")
    ax.fill_between(stops, [b.lower for b in found], [b.upper for b in found], color=GREY, alpha=0.25, linewidth=0)
    if name.startswith("12"):
        ax.axhline(exact, color=INK, linewidth=1, linestyle="--", label="exact")
    ax.set_xscale("log")
    ax.set_title(name, fontsize=10, color=INK)
    ax.set_xlabel("stops on the way")
axes[0].set_ylabel("log Z, nats")
axes[0].legend(frameon=False, fontsize=8)
save(figure, "sandwich")

# %% [markdown]
# ## 5. Completing and repairing
#
# What is known stays as it is, the rest is drawn given it: half a digit has several completions, and the machine offers
# them in proportion. Repairing is the same with softer evidence: each pixel was flipped with a known probability, so the
# machine's beliefs and what was seen are weighed against each other.

# %%
heading("Completing and repairing")
chosen = test[[int(np.flatnonzero(test_labels == digit)[3]) for digit in range(10)]]
known = np.zeros((28, 28), bool)
known[:, :14] = True
known = known.ravel()
half = np.where(known, chosen, 0.5)
sweeps = 120 if args.quick else 1000
completed = [rbm.complete(jax.random.fold_in(key, n), half, known=known, sweeps=sweeps) for n in range(3)]
believed = rbm.complete(key, half, known=known, sweeps=sweeps, mean=True)
print(f"known pixels untouched: {all((c[:, known] == half[:, known]).all() for c in completed)}")
unknown = ~known
right = np.mean((believed[:, unknown] > 0.5) == chosen[:, unknown])
empty = np.mean(~chosen[:, unknown])
print(f"pixels of the right half guessed right: {right:.3f}; leaving it empty: {empty:.3f}")
figure, axes = plt.subplots(6, 1, figsize=(6.0, 4.6), layout="constrained")
names = ("digit", "known", "drawn", "drawn", "drawn", "expected")
for ax, name, rows in zip(axes, names, (chosen, half, *completed, believed), strict=True):
    show(ax, rows, 10)
    ax.text(-6, 14, name, ha="right", va="center", fontsize=9, color=INK)
save(figure, "completions")

rng = np.random.default_rng(0)
noisy = chosen ^ (rng.random(chosen.shape) < 0.15)
clean = np.asarray(rbm.denoise(key, noisy, noise=0.15, sweeps=sweeps))
wrong_before, wrong_after = (np.mean(x != chosen) for x in (noisy, clean > 0.5))
print(f"wrong pixels: {wrong_before:.3f} of the noisy digits, {wrong_after:.3f} of the repaired ones")
figure, axes = plt.subplots(3, 1, figsize=(6.0, 2.4), layout="constrained")
for ax, name, rows in zip(axes, ("digit", "noisy", "repaired"), (chosen, noisy, clean), strict=True):
    show(ax, rows, 10)
    ax.text(-6, 14, name, ha="right", va="center", fontsize=9, color=INK)
save(figure, "repairs")

# %% [markdown]
# ## 6. A classifier
#
# Give the label a softmax unit of its own beside the pixels, and $p(y \mid v)$ is exact: one free energy for each label.
# The machine can be fitted to tell labels (discriminative), to model digits and labels together (generative), or to both,
# which guards the classifier against learning by heart.

# %%
heading("A classifier")
begin = cr.ClassificationRBM.random(key, 784, 32 if args.quick else 200, labels=10, data=train)
steps = cr.MiniBatch(epochs=6 if args.quick else 40, batch_size=50, learning_rate=5e-3)
errors = {}
for name, generative in (("discriminative", 0.0), ("hybrid", 0.01)):
    found = begin.fit(train, train_labels, key=key, method=steps, generative=generative).model
    errors[name] = np.mean(np.array(found.predict(test)) != test_labels)
    print(f"{name}: {100 * errors[name]:.1f} % of the test digits wrong")
density = begin.fit(train, train_labels, key=key, method=steps, discriminative=0.0, generative=1.0).model
errors["generative"] = np.mean(np.array(density.predict(test)) != test_labels)
print(f"generative: {100 * errors['generative']:.1f} % of the test digits wrong")

# %% [markdown]
# ## 7. Ratings
#
# Somebody who rated a few films is a machine with a softmax unit of five values for each of *these* films, and none for the
# others; all users share the weights (Salakhutdinov, Mnih and Hinton 2007). What they would give to another film is then
# bet on from the hidden units. The ratings here are made up: a user's taste, a film's kind, some noise. A tenth of them is
# set aside before anything is learned, and scores the predictions.

# %%
heading("Ratings")
ratings = (
    cr.Ratings.latent_factors(key, 200, 40, share=0.5) if args.quick else cr.Ratings.latent_factors(key, 2000, 100)
)
known, aside = ratings.split(jax.random.key(7), 0.1)
begin = cr.Recommender.random(key, known, num_hidden=12 if args.quick else 50)
steps = cr.MiniBatch(epochs=40 if args.quick else 100, batch_size=50, learning_rate=0.02, l2=0.05)
recommender = begin.fit(known, method=steps, sweeps=2, key=key).model
predicted = recommender.predict(known)
means = np.broadcast_to(np.nanmean(known.table, axis=0), known.table.shape)
print(f"{known}, {int(aside.rated.sum())} set aside")
for name, grades in (("mean of the item", means), ("recommender", predicted)):
    print(f"{name}: RMSE {cr.evaluation.rating_scores(aside.table, grades).rmse:.3f} on ratings set aside")
print(f"for user 0: items {recommender.recommend(known, 3)[0]}")

figure, axes = plt.subplots(1, 2, figsize=(7.2, 3.4), layout="constrained", sharey=True)
order = np.argsort(-predicted[:40].mean(1))
grades = plt.get_cmap("RdBu_r").with_extremes(bad="#c8c8c8")  # grey is not rated
for ax, table, title in zip(axes, (known.table, predicted), ("what is known", "what is predicted"), strict=True):
    drawn = ax.imshow(table[:40][order, :40], cmap=grades, vmin=1, vmax=5, interpolation="nearest")
    ax.set_title(title, fontsize=10, color=INK)
    ax.set_xlabel("film")
axes[0].set_ylabel("user")
figure.colorbar(drawn, ax=axes, ticks=[1, 2, 3, 4, 5], shrink=0.8)
save(figure, "ratings")
