# %% [markdown]
# # Memories that complete themselves: Hopfield networks
#
# A computer finds what it stored by its address. We find it by a part of it: three notes bring back a tune. In 1982
# John Hopfield wrote down a network that does so. Its units are $s_i = \pm 1$, its couplings symmetric, and every state
# has an *energy*,
#
# $$ E(s) = -\tfrac12 s^\top W s - b^\top s. $$
#
# Memories are minima of the energy. Recall is rolling downhill: each unit in turn takes the sign of its field
# $W s + b$, the energy never rises, and so the walk must end, in the memory that lies nearest if all goes well. This
# tutorial stores letters, finds out how many fit and why no more, then makes the valleys steeper until the memory holds
# exponentially many patterns, and ends where the story arrived in 2020: at the attention of transformers.
#
# Run it as a script (`python tutorials/hopfield_memories.py --quick --out figures`) or cell by cell in an editor.

# %%
import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.path import Path as Path2D
from matplotlib.textpath import TextPath

import chainrule as cr

parser = argparse.ArgumentParser(description="Hopfield networks, from letters to attention.")
parser.add_argument("--quick", action="store_true", help="fewer patterns and sizes")
parser.add_argument("--out", type=Path, default=Path("figures"), help="folder for the figures (default: figures)")
args, _ = parser.parse_known_args()  # a notebook has arguments of its own
args.out.mkdir(parents=True, exist_ok=True)

rng = np.random.default_rng(1982)
key = jax.random.key(1982)
INK, GREY = "#22303C", "#9AA5AE"
BLUE, ORANGE, GREEN, PINK = "#0072B2", "#D55E00", "#009E73", "#CC79A7"  # as in chainrule.plotting
plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "axes.titlelocation": "left"})


def heading(text):
    print(f"\n{text}\n{'-' * len(text)}")


def save(figure, name):
    figure.savefig(args.out / f"hopfield_{name}.png", dpi=150)
    plt.close(figure)


def picture(ax, pixels, title="", colour=INK):
    side = round(len(pixels) ** 0.5)
    ax.imshow(np.reshape(pixels, (side, side)), cmap="Greys", vmin=-1, vmax=1, interpolation="nearest")
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(True)
    ax.spines[:].set_color(colour)
    ax.spines[:].set_linewidth(1.2)
    ax.set_title(title, fontsize=9, color=colour)


# %% [markdown]
# ## 1. Letters
#
# A letter is a pattern of 14 × 14 pixels, black $+1$ and white $-1$: one unit per pixel. Hebb's rule couples what is
# black together and white together, $W = \frac1N \sum_\mu \xi_\mu \xi_\mu^\top$. Store four letters, hide what is left
# of one under noise, and let go.

# %%
SIDE = 14


def letter(name):
    """A letter stretched over the whole grid, so that about half of the pixels are black."""
    shape = TextPath((0, 0), name, size=10)
    low, high = shape.get_extents().get_points()
    centres = np.stack(np.meshgrid(np.arange(SIDE), np.arange(SIDE)[::-1]), -1).reshape(-1, 2) + 0.5
    inside = [Path2D(outline).contains_points(low + centres / SIDE * (high - low)) for outline in shape.to_polygons()]
    return np.where(np.sum(inside, axis=0) % 2 == 1, 1, -1)  # the hole in an O is inside of two outlines


def damage(patterns, share):
    return np.where(rng.random(np.shape(patterns)) < share, -np.asarray(patterns), patterns)


def hits(memory, patterns, probes):
    """How many probes come back as their pattern, to the last unit."""
    return int((np.asarray(memory.recall(probes, key=key).states) == patterns).all(1).sum())


ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
alphabet = np.stack([letter(name) for name in ALPHABET])
chosen = "GKVW"
few = alphabet[[ALPHABET.index(name) for name in chosen]]
memory = cr.Hopfield.from_patterns(few)
probes = damage(few, 0.25)
found = memory.recall(probes)

heading("1. Four letters by Hebb's rule")
print(f"{memory!r}; a quarter of all pixels flipped: {found!r}")
print(f"letters recalled to the last pixel: {hits(memory, few, probes)} of {len(few)}")
print(f"the energy never rose: {bool((np.diff(np.asarray(found.energies), axis=0) <= 1e-4).all())}")

# %% [markdown]
# To watch it happen, stop after every 49 units, a quarter of them. The energy falls at every step that changes something,
# and nothing else tells the network where to go.

# %%
state, frames, energies = probes[2].astype(float).copy(), [probes[2]], []
couplings = np.asarray(memory.couplings)
for step, unit in enumerate(rng.permutation(np.arange(SIDE * SIDE))):
    energies.append(float(memory.energy(state)))
    state[unit] = np.sign(couplings[unit] @ state) or state[unit]
    if step % 49 == 48:
        frames.append(state.copy())
energies.append(float(memory.energy(state)))

figure = plt.figure(figsize=(11, 4.6), layout="constrained")
grid = figure.add_gridspec(2, 6, width_ratios=(1, 1, 1, 1, 1, 4))
for column, frame in enumerate(frames):
    picture(figure.add_subplot(grid[0, column]), frame, "start" if column == 0 else f"after {49 * column}")
for column, pattern in enumerate(few):
    picture(figure.add_subplot(grid[1, column]), pattern, f"stored {chosen[column]}", GREY)
curve = figure.add_subplot(grid[:, 5])
curve.plot(energies, color=BLUE, linewidth=2)
for value in np.asarray(memory.energy(few)):
    curve.axhline(value, color=GREY, linewidth=0.8, linestyle=":")
curve.text(2, float(memory.energy(few).max()), "energies of the letters", color=GREY, fontsize=9, va="bottom")
curve.set(xlabel="units visited", ylabel="energy")
curve.set_title("One unit at a time, downhill to a memory")
save(figure, "recall")

# %% [markdown]
# ## 2. What goes wrong: all of the alphabet
#
# Letters resemble each other, and Hebb's rule adds them up: the field on a unit is the pattern's own pull plus
# *crosstalk* from all patterns that overlap with it. With 26 letters the crosstalk wins. Storkey's rule first asks the
# network what it already believes and learns only the difference; the pseudo-inverse removes the crosstalk altogether,
# by projecting on the span of the patterns.

# %%
RULES = {"Hebb": cr.hopfield.Hebb(), "Storkey": cr.hopfield.Storkey(), "pseudo-inverse": cr.hopfield.PseudoInverse()}
networks = {name: cr.Hopfield.from_patterns(alphabet, rule) for name, rule in RULES.items()}
probes = damage(alphabet, 0.08)

heading("2. The whole alphabet, one pixel in twelve flipped")
for name, network in networks.items():
    stable, recalled = hits(network, alphabet, alphabet), hits(network, alphabet, probes)
    print(f"{name:>14}: letters that stay as they are {stable:2d}, recalled from noise {recalled:2d} of 26")

shown = [ALPHABET.index(name) for name in "BEGKQRW"]
figure, axes = plt.subplots(4, len(shown), figsize=(9, 5.6), layout="constrained")
for column, index in enumerate(shown):
    picture(axes[0, column], probes[index])
    for row, network in enumerate(networks.values(), 1):
        state = np.asarray(network.recall(probes[index], key=key).states)
        picture(axes[row, column], state, colour=GREEN if (state == alphabet[index]).all() else ORANGE)
for ax, name in zip(axes[:, 0], ["probe", *networks], strict=True):
    ax.set_ylabel(name)
figure.suptitle("26 letters: by Hebb's rule they run together (green: right to the last pixel)", x=0.01, ha="left")
save(figure, "alphabet")

# %% [markdown]
# The network also remembers what nobody taught it. The mirror image $-\xi$ has the same energy as $\xi$, and the
# majority of three patterns is a (shallower) minimum too.

# %%
random = rng.choice([-1, 1], (5, 400))
plain = cr.Hopfield.from_patterns(random)
mixture = np.sign(random[:3].sum(0))
for name, state in (("a pattern", random[0]), ("its mirror image", -random[0]), ("majority of three", mixture)):
    end = plain.recall(state)
    kept = float((np.asarray(end.states) == state).mean())
    print(f"{name:>17}: energy {float(end.energy):7.1f}, keeps {100 * kept:.1f} % of itself")

# %% [markdown]
# ## 3. How much fits
#
# For random patterns the answers are known. Hebb's rule stores $N / (2 \ln N)$ of them without an error (McEliece et
# al. 1987); if a few wrong units are allowed, $0.138 N$, and there memory does not fade but breaks (Amit, Gutfreund and
# Sompolinsky 1985). Storkey's rule holds $N / \sqrt{2 \ln N}$, the pseudo-inverse up to $N$.

# %%
N = 200 if args.quick else 500
loads = np.array([0.04, 0.06, 0.09, 0.12, 0.14, 0.17, 0.2, 0.25, 0.3, 0.4, 0.6, 0.8])
overlap = {name: [] for name in RULES}
for load in loads:
    patterns = rng.choice([-1, 1], (round(load * N), N))
    for name, rule in RULES.items():
        end = cr.Hopfield.from_patterns(patterns, rule).recall(patterns[:6])
        overlap[name].append(float(np.einsum("kn,kn->k", np.asarray(end.states), patterns[:6]).mean()) / N)

heading(f"3. Random patterns in {N} units: mean overlap after recall")
at = {load: int(np.flatnonzero(loads == load)[0]) for load in (0.06, 0.3, 0.8)}
for name, values in overlap.items():
    told = ", ".join(f"K = {load:g} N: {values[i]:.3f}" for load, i in at.items())
    print(f"{name:>14}: {told}")

figure, ax = plt.subplots(figsize=(8.5, 4.4), layout="constrained")
for (name, values), colour in zip(overlap.items(), (BLUE, ORANGE, GREEN), strict=True):
    ax.plot(loads, values, color=colour, linewidth=2, marker="o", markersize=4, label=name)
limits = (0.138, RULES["Storkey"].capacity(N) / N)
for limit, colour, name in zip(limits, (BLUE, ORANGE), ("0.138 N", "N / √(2 ln N)"), strict=True):
    ax.axvline(limit, color=colour, linewidth=1, linestyle=":")
    ax.text(limit, 0.02, f" {name}", color=colour, fontsize=9)
ax.set(xlabel="patterns per unit", ylabel="overlap of the recalled state with the pattern", ylim=(0, 1.04))
ax.legend(frameon=False)
ax.set_title(f"Memory does not fade, it breaks: {N} units, recall from the patterns themselves")
save(figure, "capacity")

# %% [markdown]
# ## 4. Steeper valleys
#
# Crosstalk is a sum over patterns of their overlaps. Krotov and Hopfield (2016) made the energy a steeper function of
# the overlap, $E = -N \sum_\mu (\xi_\mu \cdot s / N)^n$, so that the near pattern outshouts the crowd: about $N^{n-1}$
# patterns fit, and with the exponential $2^{N/2}$ (Demircigil et al. 2017). $n = 2$ is Hebb's rule again.

# %%
M = 30
counts = np.array([3, 30, 1000]) if args.quick else np.geomspace(3, 8000, 14).astype(int)
interactions = {
    "n = 2 (Hebb)": cr.hopfield.Polynomial(2),
    "n = 3": cr.hopfield.Polynomial(3),
    "n = 4": cr.hopfield.Polynomial(4),
    "exponential": cr.hopfield.Exponential(),
}
if args.quick:
    del interactions["n = 4"]
shares = {name: [] for name in interactions}
for count in counts:
    patterns = rng.choice([-1, 1], (count, M))
    asked = patterns[rng.integers(0, count, 60)]
    for name, interaction in interactions.items():
        end = cr.DenseMemory(patterns, interaction).recall(asked)
        shares[name].append(float((np.asarray(end.states) == asked).all(1).mean()))

heading(f"4. Dense memories of {M} units: published capacity, and the most patterns of which 80 % are stable")
for name, interaction in interactions.items():
    most = max((count for count, share in zip(counts, shares[name], strict=True) if share >= 0.8), default=0)
    print(f"{name:>14}: {interaction.capacity(M):8.0f} {most:6d}")

figure, ax = plt.subplots(figsize=(8.5, 4.4), layout="constrained")
for name, colour in zip(("n = 2 (Hebb)", "n = 3", "n = 4", "exponential"), (BLUE, ORANGE, GREEN, PINK), strict=True):
    if name not in shares:
        continue
    ax.plot(counts, shares[name], color=colour, linewidth=2, marker="o", markersize=4, label=name)
    ax.axvline(interactions[name].capacity(M), color=colour, linewidth=1, linestyle=":")
ax.set(xscale="log", xlabel="patterns stored", ylabel="share of patterns that are stable", xlim=(2.5, counts[-1] * 1.1))
ax.legend(frameon=False)
ax.set_title(f"{M} units hold thousands of patterns, if the energy is steep enough (dots: published)")
save(figure, "dense")

# %% [markdown]
# ## 5. The same idea, continuous: attention
#
# Take the exponential energy to real vectors and add $\frac12 |x|^2$ to keep them from running away. One step downhill
# is then (Ramsauer et al. 2021)
#
# $$ x \leftarrow \sum_\mu \mathrm{softmax}(\beta\, \xi_\mu \cdot x)\; \xi_\mu, $$
#
# which is one head of attention: $x$ asks, the patterns are keys and values, and $\beta$ is the $1/\sqrt d$ of
# transformers. `cr.retrieve` is that step. It agrees with JAX's own attention to rounding.

# %%
queries, patterns = (jnp.asarray(rng.normal(size=(size, 16)), jnp.float32) for size in (5, 40))
ours = cr.retrieve(patterns, queries, beta=0.25)
theirs = jax.nn.dot_product_attention(*(x[None, :, None] for x in (queries, patterns, patterns)), scale=0.25)
heading("5. Retrieval is attention")
print(f"largest difference to jax.nn.dot_product_attention: {float(abs(ours - theirs[0, :, 0]).max()):.1e}")

# %% [markdown]
# What does $\beta$ do? Store handwritten digits (a part of MNIST, see `data/README.md`), show the upper half of some, and
# ask for the rest. A small $\beta$ answers with the mean of everything, a middling one with a blend of digits that fit
# (a *metastable* state), a large one with a single memory. The patterns are centred and of equal length, so that none
# is favoured.

# %%
DATA = Path(__file__).parent / "data" if "__file__" in globals() else Path("tutorials/data")
archive = np.load(DATA / "mnist_subset.npz")
labels, unseen_labels = archive["train_labels"], archive["test_labels"]
images = archive["train_images"].reshape(-1, 784) / 255
centre = images.mean(0)


def prepared(images):
    return (images - centre) / np.linalg.norm(images - centre, axis=1, keepdims=True)


stored, unseen = prepared(images), prepared(archive["test_images"].reshape(-1, 784) / 255)
chosen = [int(np.flatnonzero(labels == digit)[7]) for digit in (0, 2, 3, 4, 5, 6, 7, 9)]
half = np.where(np.arange(784) < 392, stored[chosen], 0)
betas = (1.0, 15.0, 60.0, 400.0)
ends = {beta: cr.ContinuousHopfield(stored, beta).recall(half) for beta in betas}

for beta, end in ends.items():
    weight = np.asarray(jax.nn.softmax(beta * end.states @ stored.T), float)
    blended = np.exp(-(weight * np.log(weight + 1e-300)).sum(1)).mean()
    distance = np.linalg.norm(np.asarray(end.states) - stored[chosen], axis=1)
    print(
        f"beta {beta:5.0f}: {blended:6.1f} memories in an answer; {int((distance < 0.05).sum())} of {len(chosen)} "
        f"digits restored; energies fell: {bool((np.diff(np.asarray(end.energies), axis=0) <= 1e-5).all())}"
    )

figure, axes = plt.subplots(2 + len(betas), len(chosen), figsize=(8, 6.4), layout="constrained")
scale = np.linalg.norm(images[chosen] - centre, axis=1)
rows = {"stored": stored[chosen], "shown": half} | {f"β = {beta:g}": np.asarray(e.states) for beta, e in ends.items()}
for row, (name, states) in enumerate(rows.items()):
    axes[row, 0].set_ylabel(name)
    for column, state in enumerate(states):
        ax, pixels = axes[row, column], scale[column] * state + centre
        if name == "shown":
            pixels = np.where(np.arange(784) < 392, pixels, 0.25)
        ax.imshow(pixels.reshape(28, 28), cmap="Greys", vmin=0, vmax=1)
        ax.set(xticks=[], yticks=[])
figure.suptitle("From the upper half: the mean of all, a blend, and then one memory", x=0.01, ha="left")
save(figure, "attention")

# %% [markdown]
# Digits that were never stored can be asked for too. With labels for values, attention is a classifier; it has learned
# in the way of 1982, by remembering.

# %%
answers = np.asarray(cr.retrieve(stored, unseen, 60.0, values=np.eye(10)[labels])).argmax(1)
right = (answers == unseen_labels).mean()
print(f"digits never seen, labelled by one step of retrieval: {100 * right:.1f} % right")

# %%
print(f"\nFigures: {', '.join(sorted(path.name for path in args.out.glob('hopfield_*.png')))} in {args.out}/")
