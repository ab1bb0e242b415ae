# %% [markdown]
# # Energy models: densities from any function
#
# A density has to be positive and to integrate to one. The first is easy to have, $p(x) = e^{-E(x)} / Z$ for any
# function $E$; the second is the trouble, because $Z = \int e^{-E(x)} dx$ is out of reach as soon as $x$ has more than a
# few dimensions. Three facts keep such models useful all the same:
#
# - the *score* $\nabla \log p(x) = -\nabla E(x)$ does not contain $Z$, so that chains can sample $p$;
# - ratios $p(x)/p(y) = e^{E(y) - E(x)}$ do not contain it either, so that $E$ says what is unusual;
# - and there are ways to *learn* $E$ from data that never need it.
#
# This tutorial samples an energy written by hand, learns one in four ways where the truth is known and $Z$ can be
# computed to check them, watches a fit go wrong and being rescued, and reads a classifier of digits as a density.
#
# Run it as a script (`python tutorials/energy_models.py --quick --out figures`) or cell by cell in an editor.

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

import chainrule as cr

parser = argparse.ArgumentParser(description="Energy models, from Langevin dynamics to digits.")
parser.add_argument("--quick", action="store_true", help="smaller networks, fewer chains and steps")
parser.add_argument("--out", type=Path, default=Path("figures"), help="folder for the figures (default: figures)")
args, _ = parser.parse_known_args()  # a notebook has arguments of its own
args.out.mkdir(parents=True, exist_ok=True)

rng = np.random.default_rng(2006)
key = jax.random.key(2006)
DATA = Path(__file__).parent / "data" if "__file__" in globals() else Path("tutorials/data")
INK, GREY = "#22303C", "#9AA5AE"
BLUE, ORANGE, GREEN, PINK = "#0072B2", "#D55E00", "#009E73", "#CC79A7"  # as in chainrule.plotting
plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "axes.titlelocation": "left"})


def heading(text):
    print(f"\n{text}\n{'-' * len(text)}")


def save(figure, name):
    figure.savefig(args.out / f"energy_{name}.png", dpi=150)
    plt.close(figure)


# %% [markdown]
# ## 1. Sampling: walk downhill, and be shaken
#
# Langevin dynamics takes a step along the score and adds noise, $x \leftarrow x - \epsilon \nabla E(x) +
# \sqrt{2\epsilon}\,\xi$. With small steps it samples $p$; with larger ones it samples something else, for a Gaussian one
# whose variance is $1/(1 - \epsilon/2)$. MALA puts that right by accepting or rejecting each step; Hamiltonian Monte
# Carlo does too, and goes far before it asks. Both are BlackJAX's.

# %%
bell = cr.EnergyModel(lambda x: (x**2).sum() / 2, shape=1)
samplers = {
    "Langevin, step 0.5": cr.Langevin(0.5, steps=60),
    "MALA, step 0.5": cr.MALA(0.5, steps=60),
    "HMC": cr.HMC(0.5, leapfrogs=5, steps=60),
}
count = 10_000 if args.quick else 20_000
heading(f"1. The variance of {count} draws from N(0, 1)")
for name, sampler in samplers.items():
    draws = bell.sample(key, count, method=sampler)
    print(f"{name:>18}: variance {float(draws.var()):.3f}")
print(f"as known for plain Langevin at this step: {1 / (1 - 0.25):.3f}")

# %% [markdown]
# Here is an energy by hand, a ring with five hollows, and what the chains make of it: they start anywhere and are found
# where the energy is low.


# %%
def necklace(x):
    radius = jnp.sqrt((x**2).sum() + 1e-6)
    return 8 * (radius - 2) ** 2 - 2 * jnp.cos(5 * jnp.arctan2(x[1], x[0]))


ring = cr.EnergyModel(necklace, shape=2)
angle, radius = jax.random.uniform(
    key, (2, 6000), minval=jnp.array([[0.0], [0.8]]), maxval=jnp.array([[6.2832], [3.4]])
)
start = radius[:, None] * jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=1)
walk = ring.walk(key, start, method=cr.MALA(0.02, steps=200), keep=True)
print(f"MALA on the necklace accepts {100 * float(walk.acceptance.mean()):.0f} % of its steps")

edge = np.linspace(-3.5, 3.5, 141)
grid = np.stack(np.meshgrid(edge, edge), -1)
figure, axes = plt.subplots(1, 4, figsize=(13, 3.6), layout="constrained")
axes[0].contourf(
    edge, edge, np.asarray(ring.energy(grid)), levels=np.linspace(-2, 12, 15), cmap="Blues_r", extend="max"
)
axes[0].set_title("the energy")
for ax, step in zip(axes[1:], (1, 10, 200), strict=True):
    ax.plot(*np.asarray(walk.path[step - 1, :1500]).T, ".", color=BLUE, markersize=2, alpha=0.6)
    ax.set_title(f"1500 chains after {step} step{'s' * (step > 1)}")
for ax in axes:
    ax.set(xlim=(-3.5, 3.5), ylim=(-3.5, 3.5), xticks=[], yticks=[], aspect="equal")
save(figure, "necklace")

# %% [markdown]
# ## 2. Learning, without $Z$
#
# Forget the formula and keep 4 000 of its draws. A small network is the energy now, with a shallow bowl added so that
# $Z$ is finite. Four objectives, each of which avoids $Z$ in its own way:
#
# | objective | idea | what it needs |
# |---|---|---|
# | denoising score matching | from a noisy point, point back | a noise level: the density comes out blurred by it |
# | sliced score matching | the score of the data, along random directions | second derivatives |
# | noise contrast | tell data from noise; $\log Z$ is one parameter more | noise like the data |
# | persistent chains | lower $E$ at the data, raise it where chains are | chains that keep up |
#
# In two dimensions a sum over a grid gives $Z$, and with it the log-likelihood on fresh draws, to compare with the best
# that is possible: the truth's own.


# %%
class Bowl(eqx.Module):
    layers: eqx.nn.MLP

    def __call__(self, x):
        return self.layers(x) + (x**2).sum() / 18


def log_prob_on_grid(model, x):
    """Log-density, with Z as a sum over a wide grid."""
    wide = np.linspace(-6, 6, 241)
    energies = np.asarray(model.energy(np.stack(np.meshgrid(wide, wide), -1)), float)
    log_z = np.log(np.exp(-energies).sum() * (wide[1] - wide[0]) ** 2)
    return -np.asarray(model.energy(x), float) - log_z, log_z


data, fresh = np.split(np.asarray(walk.samples), [4000])
truth = log_prob_on_grid(ring, fresh)[0].mean()

width, walkers, epochs = (32, 400, 12) if args.quick else (64, 2000, 100)
untrained = cr.EnergyModel(Bowl(eqx.nn.MLP(2, "scalar", width, 2, activation=jax.nn.silu, key=key)), shape=2)
chains = cr.LangevinPCD(cr.Langevin(0.01, steps=20), chains=walkers)
objectives = {
    "denoising": cr.DenoisingScoreMatching(0.15),
    "sliced": cr.SlicedScoreMatching(),
    "noise contrast": cr.NoiseContrastive(ratio=4),
    "persistent chains": chains,
}
method = cr.MiniBatch(epochs=epochs, batch_size=200, learning_rate=0.03, average=0.99)
fits = {name: untrained.fit(data, objective=o, method=method, key=key) for name, o in objectives.items()}

heading("2. Log-likelihood of fresh draws, Z by a grid")
gaussian = -0.5 * np.log(np.linalg.det(2 * np.pi * np.cov(data.T))) - 1
print(f"{'a Gaussian':>18}: {gaussian:.3f} nats")
for name, fit in fits.items():
    score, log_z = log_prob_on_grid(fit.model, fresh)
    learned = fit.model.log_normaliser
    extra = "" if learned is None else f"; log Z learned {float(learned):.3f}, by the grid {log_z:.3f}"
    print(f"{name:>18}: {score.mean():.3f} nats{extra}")
print(f"{'the truth':>18}: {truth:.3f} nats")

figure, axes = plt.subplots(1, len(fits) + 1, figsize=(3.3 * (len(fits) + 1), 3.6), layout="constrained")
axes[0].plot(*data[:1500].T, ".", color=INK, markersize=2, alpha=0.5)
axes[0].set_title("data")
for ax, (name, fit) in zip(axes[1:], fits.items(), strict=True):
    ax.imshow(np.exp(log_prob_on_grid(fit.model, grid)[0]), extent=(-3.5, 3.5, -3.5, 3.5), origin="lower", cmap="Blues")
    ax.set_title(name)
for ax in axes:
    ax.set(xlim=(-3.5, 3.5), ylim=(-3.5, 3.5), xticks=[], yticks=[], aspect="equal")
save(figure, "densities")

# %% [markdown]
# ## 3. When it goes wrong
#
# Persistent chains are the most direct of the four and the most fragile: if the network changes faster than the chains
# follow, energies run away. What to watch is the *gap*, the data's mean energy less the chains'. The fit below is much
# too eager. Each time its gap passes the limit, the fit goes back to parameters that were well, takes shorter steps from
# there, and says so in its status.

# %%
eager = cr.MiniBatch(epochs=epochs, batch_size=200, learning_rate=1.0, average=0.99)
touchy = cr.LangevinPCD(cr.Langevin(0.01, steps=20), chains=walkers, max_gap=20.0)
rescued = untrained.fit(
    data, objective=touchy, method=eager, safeguard=cr.Safeguard(period=20, retries=20, slower=0.3), key=key
)
reckless = untrained.fit(data, objective=touchy, method=eager, safeguard=cr.Safeguard(retries=0), key=key)

heading("3. Far too large a learning rate")
for name, fit in (("with retries", rescued), ("without", reckless)):
    score = log_prob_on_grid(fit.model, fresh)[0].mean()
    over = int((~(abs(fit.history) <= 20)).sum())
    print(f"{name:>12}: {fit.status.name}, {over} steps undone of {fit.iterations}; {score:.3f} nats")

figure, ax = plt.subplots(figsize=(8.5, 3.8), layout="constrained")
gaps = {"learning rate 0.03": fits["persistent chains"], "1.0, rescued": rescued}
for (name, fit), colour in zip(gaps.items(), (BLUE, ORANGE), strict=True):
    ax.plot(np.clip(fit.history, -30, 30), color=colour, linewidth=1, label=name)
ax.axhline(0, color=INK, linewidth=0.8)
ax.set(xlabel="step", ylabel="gap of energies (cut at ±30)")
ax.legend(frameon=False, ncols=2)
ax.set_title("A fit that goes well keeps its gap near zero; a wild one is brought back")
save(figure, "gap")

# %% [markdown]
# ## 4. A classifier is a density, too
#
# A classifier's logits $f(x)_y$ have one number too many: softmax does not notice a constant added to all of them.
# Grathwohl et al. (2020) read that constant as an energy, $E(x) = -\log \sum_y e^{f(x)_y}$, and train both: the labels
# by cross entropy, the inputs by chains. The result classifies, and has an opinion on whether an input is a digit at all.
# The digits are a small part of MNIST (see `data/README.md`), halved in size and a little blurred by noise.

# %%
archive = np.load(DATA / "mnist_subset.npz")


def shrink(images):
    """14 × 14 pixels, from −1 to 1."""
    return images.reshape(-1, 14, 2, 14, 2).mean((2, 4)).reshape(-1, 196) / 127.5 - 1


train, test = shrink(archive["train_images"]), shrink(archive["test_images"])
train = train + 0.1 * rng.normal(size=train.shape)
classes = archive["train_labels"].tolist()


class Reader(eqx.Module):
    layers: eqx.nn.MLP

    def __call__(self, x):
        return self.layers(x) - (x**2).sum() / 8  # far away from all images, energies rise


reader = Reader(eqx.nn.MLP(196, 10, 64 if args.quick else 128, 2, activation=jax.nn.silu, key=key))
joint = cr.JointEnergyModel(reader, shape=196)
epochs, walkers = (6, 200) if args.quick else (60, 1000)
images = cr.LangevinPCD(
    cr.Langevin(0.02, steps=10 if args.quick else 20, noise=0.05), chains=walkers, penalty=1e-3, restart=0.05
)
fit = joint.fit(
    train, classes, objective=images, method=cr.MiniBatch(epochs=epochs, batch_size=100, learning_rate=3e-3), key=key
)
model = fit.model
right = np.mean(np.array(model.predict(test)) == archive["test_labels"])


def separation(others):
    """The chance that a digit has a lower energy than something else: the area under the ROC curve."""
    inside, outside = np.asarray(model.energy(test)), np.asarray(model.energy(others))
    return float((inside[:, None] < outside[None]).mean())


strangers = {
    "pixels shuffled": rng.permuted(test, axis=1),
    "upper half of one, lower of another": np.concatenate([test[:, :98], rng.permutation(test)[:, 98:]], axis=1),
    "black and white swapped": -test,
}
heading("4. A classifier of digits that knows what digits look like")
print(f"{fit.status.name}; {100 * right:.1f} % of {len(test)} test digits right")
for name, others in strangers.items():
    print(f"lower energy than {name}: {100 * separation(others):.1f} % of pairs")

figure, axes = plt.subplots(3, 10, figsize=(10, 3.4), layout="constrained")
noise = rng.normal(size=(10, 196)) * train.std(0) + train.mean(0)
rows = [noise]
for steps in (60, 300):
    cold = cr.Langevin(0.02, steps=steps, noise=0.02)
    ends = [model.conditional(digit).walk(key, noise[digit : digit + 1], method=cold).samples[0] for digit in range(10)]
    rows.append(np.stack(ends))
for row, (name, pictures) in enumerate(zip(("start", "60 steps", "300 steps"), rows, strict=True)):
    axes[row, 0].set_ylabel(name)
    for digit in range(10):
        ax = axes[row, digit]
        ax.imshow(np.reshape(pictures[digit], (14, 14)), cmap="Greys", vmin=-1, vmax=1)
        ax.set(xticks=[], yticks=[])
        if row == 0:
            ax.set_title(f"as {digit}", fontsize=9)
figure.suptitle("Chains down the energy of each class, from noise", x=0.01, ha="left")
save(figure, "digits")

figure, ax = plt.subplots(figsize=(8.5, 3.8), layout="constrained")
bins = np.linspace(
    *np.quantile(np.concatenate([model.energy(x) for x in (test, *strangers.values())]), [0.005, 0.98]), 60
)
for (name, pictures), colour in zip({"test digits": test, **strangers}.items(), (INK, BLUE, ORANGE, PINK), strict=True):
    ax.hist(np.asarray(model.energy(pictures)), bins, color=colour, alpha=0.55, label=name)
ax.set(xlabel="energy", yticks=[])
ax.spines.left.set_visible(False)
ax.legend(frameon=False)
ax.set_title("The same network tells a digit from what only resembles one")
save(figure, "strangers")

# %%
print(f"\nFigures: {', '.join(sorted(path.name for path in args.out.glob('energy_*.png')))} in {args.out}/")
