# %% [markdown]
# # Hidden Markov models, from the beginning
#
# A hidden Markov model is two sentences long. *Something that we do not see moves from state to state, and where it
# goes depends only on where it is. What we do see depends only on the state.*
#
# $$ p(z, x) = \underbrace{\pi(z_0) \prod_{t=1}^{T-1} A(z_{t-1}, z_t)}_{\text{a Markov chain}} \;
#    \underbrace{\prod_{t=0}^{T-1} p(x_t \mid z_t)}_{\text{what is seen}} $$
#
# Speech, genomes, machines and the tracks of animals have been read this way. This tutorial follows Rabiner's (1989)
# three questions: how probable is what we saw, what happened behind it, and how are the parameters learned. Then it
# builds structure into a model, differentiates one, and looks at what can go wrong.
#
# Run it as a script (`python tutorials/hidden_markov_models.py --quick --out figures`) or cell by cell in an editor.

# %%
import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import jax
import matplotlib.pyplot as plt
import networkx as nx
import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.patches import Circle, Ellipse

import chainrule as cr
from chainrule.models.hmm import HMMPrior

parser = argparse.ArgumentParser(description="Hidden Markov models, from the beginning.")
parser.add_argument("--quick", action="store_true", help="less data, fewer starting points and models")
parser.add_argument("--out", type=Path, default=Path("figures"), help="folder for the figures (default: figures)")
args, _ = parser.parse_known_args()  # a notebook has arguments of its own
args.out.mkdir(parents=True, exist_ok=True)

INK, GREY = "#22303C", "#9AA5AE"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00")  # of the states, as in chainrule.plotting
plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "axes.titlelocation": "left"})


def heading(text):
    print(f"\n{text}\n{'-' * len(text)}")


def save(figure, name):
    figure.savefig(args.out / f"hmm_{name}.png", dpi=150)
    plt.close(figure)


def colour_states(ax):
    """Give each circle of a transition graph the colour of its state."""
    circles = [patch for patch in ax.patches if isinstance(patch, Circle)]
    for circle, colour in zip(circles, COLOURS, strict=False):
        circle.set(edgecolor=colour, linewidth=2.5)


# %% [markdown]
# ## 1. A chain that is seen
#
# A croupier has two dice. One is fair, the other shows a six half of the time. Before each roll he may swap them, by
# a habit that depends on nothing but the die in his hand: a Markov chain, which is a graph with a probability on each
# edge.
#
# After many steps the chain forgets where it started. Its *stationary* distribution solves $\pi = \pi A$.

# %%
habits = nx.DiGraph()
habits.add_edge("fair", "fair", probability=0.95)
habits.add_edge("fair", "loaded", probability=0.05)
habits.add_edge("loaded", "loaded", probability=0.90)
habits.add_edge("loaded", "fair", probability=0.10)
chain = cr.MarkovChain.from_graph(habits)

heading("1. A Markov chain")
walk = chain.labels(chain.sample(jax.random.key(8), 12)).tolist()
print(f"{chain!r}: {' '.join(walk)}")
print(f"log p of that walk: {chain.log_prob(walk):.4f}")
print("in the long run:", ", ".join(f"{s} {p:.4f}" for s, p in zip(chain.states, chain.stationary(), strict=True)))

# %% [markdown]
# ## 2. The chain goes behind a curtain
#
# We sit at the table and see the rolls, not the dice. Each state now has an *emission*, a distribution over what is
# seen. This is the occasionally dishonest casino of Durbin, Eddy, Krogh and Mitchison (1998).
#
# Unrolled over time, the model is a factor graph: one factor for the start, one for each step, one for each roll.

# %%
faces = np.array([[1 / 6] * 6, [0.1] * 5 + [0.5]])
casino = cr.HMM.from_graph(habits, cr.emissions.Categorical(faces))
truth, rolls = map(np.asarray, casino.sample(jax.random.key(11), 300))

heading("2. Behind the curtain")
print(f"{casino!r}, states {casino.states}")
print("rolls:", "".join(str(face + 1) for face in rolls[:80]))
print("dice: ", "".join("·L"[state] for state in truth[:80]))

figure = plt.figure(figsize=(11, 5.6), layout="constrained")
ax = figure.subplot_mosaic("AB;CC", height_ratios=(1.25, 1))
cr.plotting.transition_graph(casino.graph(), ax=ax["A"])
colour_states(ax["A"])
ax["A"].set_title("Hidden: which die is in his hand")
for state, (name, colour) in enumerate(zip(casino.states, COLOURS, strict=False)):
    ax["B"].bar(np.arange(1, 7) + 0.38 * (state - 0.5), faces[state], width=0.36, color=colour, label=name)
ax["B"].set(xlabel="face", ylabel="probability", xticks=range(1, 7))
ax["B"].set_title("Seen: its rolls. The loaded die likes sixes")
ax["B"].legend(frameon=False, loc="upper left")
unrolled = casino.factor_graph(rolls[:6])
cr.plotting.factor_graph(unrolled, ax=ax["C"])
symbols = {"z": "z", "x": "x", "step": "A", "initial": r"\pi"}
for text, (kind, *index) in zip(ax["C"].texts, [*unrolled.variables, *unrolled.factors], strict=True):
    text.set_text(f"${symbols[kind]}{f'_{index[0]}' if index else ''}$")
    text.set_fontsize(12)
ax["C"].set_title("Both, unrolled over six rolls: circles are hidden states, squares are factors")
save(figure, "casino_model")

# %% [markdown]
# ## 3. First question: how probable is what we saw?
#
# The likelihood sums over all paths, $2^{300}$ of them here. The *forward algorithm* does it in $T K^2$ steps, because
# the sum can be pushed inside the product:
#
# $$ \alpha_t(j) = p(x_t \mid j) \sum_i \alpha_{t-1}(i) A(i, j), \qquad p(x) = \sum_j \alpha_{T-1}(j) $$
#
# The numbers shrink geometrically and soon underflow, so one rescales at each step and adds the logarithms up.


# %%
def forward(model, x, transition=None):
    """The textbook's forward algorithm, rescaled, in float64."""
    alpha = np.asarray(model.initial, float)
    transition = np.asarray(model.transition if transition is None else transition, float)
    likelihood = np.exp(np.asarray(model.emission.log_prob(x), float))
    log_prob = 0.0
    for t in range(len(x)):
        alpha = (alpha if t == 0 else alpha @ transition) * likelihood[t]
        log_prob, alpha = log_prob + np.log(alpha.sum()), alpha / alpha.sum()
    return log_prob


honest = len(rolls) * np.log(1 / 6)
heading("3. How probable are the rolls?")
print(f"by the textbook's loop:   {forward(casino, rolls):.4f}")
print(f"by casino.log_prob:       {casino.log_prob(rolls):.4f}")
print(f"with a fair die alone:    {honest:.4f}")
print(f"evidence that he cheats:  {casino.log_prob(rolls) - honest:.1f} nats")

# %% [markdown]
# ## 4. Second question: what happened?
#
# There are four answers, and they differ.
#
# - **Filtering**, $p(z_t \mid x_0 \dots x_t)$: what the gambler can know during the game.
# - **Smoothing**, $p(z_t \mid x)$: what is known of each roll after the game, by forward–backward.
# - **Viterbi** (1967), $\arg\max_z p(z \mid x)$: the single most probable story.
# - **Posterior draws**: whole stories, each with its probability. They show what the single best one hides.

# %%
posterior = casino.posterior(rolls)
filtered = casino.filter(rolls)
best = casino.viterbi(rolls)
runners_up = casino.k_best(rolls, 5)
draws = casino.sample_posterior(jax.random.key(2), rolls, 20)
marginal_best = posterior.marginals.argmax(1)

heading("4. What happened?")
share = np.exp(best.log_prob - posterior.log_prob)
print(f"the most probable path is right about {(best.states == truth).mean():.1%} of the rolls")
print(f"deciding each roll by itself is right about {(marginal_best == truth).mean():.1%}")
print(f"and yet the most probable path has probability {share:.1e}; the next four are nearly as good:")
for rank, (states, log_prob) in enumerate(zip(runners_up.states, runners_up.log_prob, strict=True), 1):
    print(f"  {rank}. log p = {log_prob:.4f}, differs from the best at {(states != best.states).sum()} rolls")
print(f"uncertainty about the whole path: {casino.entropy(rolls):.1f} nats")

figure, (top, bottom) = plt.subplots(
    2, 1, figsize=(11, 6.4), height_ratios=(1, 1.25), sharex=True, layout="constrained"
)
starts = np.flatnonzero(np.diff(truth, prepend=0) == 1)
stops = np.flatnonzero(np.diff(truth, append=0) == -1)
for start, stop in zip(starts, stops, strict=True):
    top.axvspan(start - 0.5, stop + 0.5, color=COLOURS[1], alpha=0.18, linewidth=0, label="truly loaded")
top.plot(filtered.filtered[:, 1], color=GREY, linewidth=1.2, label="while playing (filtered)")
top.plot(posterior["loaded"], color=INK, linewidth=1.8, label="after the game (smoothed)")
sixes = np.flatnonzero(rolls == 5)
top.plot(sixes, np.full(len(sixes), 1.05), "|", color=COLOURS[1], markersize=7, label="a six")
handles = dict(zip(*reversed(top.get_legend_handles_labels()), strict=True))
top.legend(handles.values(), handles.keys(), frameon=False, ncols=4, loc="lower left", bbox_to_anchor=(0, 1.0))
top.set(ylabel="P(loaded)", ylim=(0, 1.1))
top.set_title("Hindsight is calmer: smoothing waits for what follows\n\n")
rows = np.vstack([truth, best.states, marginal_best, *runners_up.states[1:4], *draws.states[:12]])
bottom.imshow(rows, aspect="auto", cmap=ListedColormap(COLOURS[:2]), interpolation="nearest")
for line in (0.5, 1.5, 2.5, 5.5):
    bottom.axhline(line, color="white", linewidth=3)
bottom.set_yticks([0, 1, 2, 4, 11.5], ["truth", "Viterbi", "roll by roll", "2nd to 4th best", "12 posterior draws"])
bottom.tick_params(length=0)
bottom.set_xlabel("roll")
bottom.spines[:].set_visible(False)
bottom.set_title("The best paths are near copies of each other; the draws show what is really undecided")
save(figure, "casino_decoded")

# %% [markdown]
# ### The most probable path is not the path of most probable states
#
# A traveller takes the south line with probability 0.6, which ends at the park or the zoo, or the north line, which
# ends at the museum. Asked for each stop by itself, the best guess is *south line*, then *museum*: an impossible
# journey. Viterbi answers with a journey. Which of the two is wanted depends on what errors cost: whole paths, or
# single steps.

# %%
lines = nx.DiGraph()
lines.add_nodes_from([("south", {"initial": 0.6}), ("north", {"initial": 0.4})])
edges = [("south", "park", 0.5), ("south", "zoo", 0.5), ("north", "museum", 1.0)]
lines.add_weighted_edges_from(
    [*edges, *((stop, stop, 1.0) for stop in ("park", "zoo", "museum"))], weight="probability"
)
traveller = cr.HMM.from_graph(lines, cr.emissions.Categorical(np.full((5, 2), 0.5)))
unseen = np.full(2, np.nan)  # nothing is observed: the posterior is the prior
each = [traveller.states[k] for k in traveller.posterior(unseen).marginals.argmax(1)]
journey = traveller.viterbi(unseen)

heading("Most probable states against the most probable path")
print(f"stop by stop: {each}, a journey of probability {traveller.transition[0, 4].item():.1f}")
print(f"Viterbi:      {journey.labels.tolist()}, a journey of probability {np.exp(journey.log_prob):.1f}")

# %% [markdown]
# ## 5. Third question: how are the parameters learned?
#
# If the states were known, we would count. They are not, so we count in expectation, and repeat. This is the
# algorithm of Baum and Welch, the first case of *expectation–maximisation*:
#
# $$ \text{E:}\;\; N_{ij} = \mathbb{E}\,[\#\, i \to j \mid x] \qquad\qquad
#    \text{M:}\;\; A_{ij} = N_{ij} \Big/ \sum_{k} N_{ik} $$
#
# and the same for the emissions. No step can lower the likelihood (Dempster, Laird and Rubin 1977). Nights at the
# casino have different lengths; a list of arrays is all it takes.

# %%
rng = np.random.default_rng(0)
nights = 15 if args.quick else 60
lengths = rng.integers(150, 400, nights)
_, played = casino.sample(jax.random.key(4), 400, num_samples=nights)
games = [night[:length] for night, length in zip(np.asarray(played), lengths, strict=True)]
guessed_faces = np.array([[0.17, 0.17, 0.17, 0.17, 0.17, 0.15], [0.12, 0.12, 0.12, 0.12, 0.12, 0.4]])
with jax.enable_x64(True):  # 64 bits for this section: the last digits of the climb are of interest
    guess = cr.HMM([0.5, 0.5], [[0.8, 0.2], [0.2, 0.8]], cr.emissions.Categorical(guessed_faces), states=casino.states)
    learned = guess.fit(games, method=cr.EM(max_iterations=1000, tolerance=1e-12))
steps_up = np.diff(learned.history)

heading("5. Learning from rolls alone")
print(f"{learned!r}, from {len(games)} nights and {learned.num_observations} rolls")
print(f"EM never went down: {bool((steps_up > -1e-9).all())}; the smallest gain was {steps_up.min():.1e} nats")
for name, found, true in (
    ("P(fair → loaded)", learned.model.transition[0, 1], 0.05),
    ("P(loaded → fair)", learned.model.transition[1, 0], 0.10),
    ("P(six | loaded)", learned.model.emission.probs[1, 5], 0.50),
    ("P(six | fair)", learned.model.emission.probs[0, 5], 1 / 6),
):
    print(f"  {name:<17} learned {found:.3f}, true {true:.3f}")

# %% [markdown]
# ### Gradients do the same, and the E-step is one
#
# The engine's log-likelihood is differentiable, and its gradient *is* the E-step (Fisher's identity):
#
# $$ \frac{\partial \log p(x)}{\partial A_{ij}} = \frac{N_{ij}}{A_{ij}} $$
#
# So any gradient method can learn the model at the price of EM per step. EM needs no line search and is quick at
# first, but near the top it creeps; L-BFGS takes curvature into account. Both start at the same guess.

# %%
slope = jax.grad(lambda matrix: cr.HMM(casino.initial, matrix, casino.emission).log_prob(rolls))(casino.transition)
nudge = np.array([[0.0, 1e-6], [0.0, 0.0]])
matrix = np.asarray(casino.transition, float)
difference = (forward(casino, rolls, matrix + nudge) - forward(casino, rolls, matrix - nudge)) / 2e-6

with jax.enable_x64(True):
    runs = {"EM": learned, "L-BFGS": guess.fit(games, method=cr.LBFGS(max_iterations=400, tolerance=1e-13))}
top_log_prob = max(run.log_prob for run in runs.values())
needed = {name: int(np.argmax(run.history > top_log_prob - 0.01)) for name, run in runs.items()}

heading("Gradients")
expected_steps = posterior.transitions[0, 1] / matrix[0, 1]
print("the derivative of log p by P(fair → loaded), three times:")
print(f"  gradient {slope[0, 1]:.4f}, expected steps / A {expected_steps:.4f}, finite difference {difference:.4f}")
print("iterations to come within 0.01 nats of the best:", ", ".join(f"{name} {n}" for name, n in needed.items()))

figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
cr.plotting.history(runs["EM"].history[:60], ax=left)
left.set_title("EM climbs with every iteration")
for (name, run), colour in zip(runs.items(), (COLOURS[0], COLOURS[4]), strict=True):
    gap = top_log_prob - run.history
    right.semilogy(np.where(gap > 1e-6, gap, np.nan), color=colour, linewidth=2, label=name)
right.set(xlabel="iteration", ylabel="nats below the best")
right.grid(axis="y", color="#E5E9EC", linewidth=0.8)
right.set_title("Near the top EM creeps, L-BFGS does not")
right.legend(frameon=False)
save(figure, "learning")

# %% [markdown]
# ### Local optima
#
# EM goes up, but not to the highest top. Two-dimensional observations with a full covariance in each state show it:
# from some starting points one state swallows two clusters and another two states share one, and no small step leads
# out. The remedy is old and works: start often, keep the best. `fit(…, restarts=16)` runs them side by side.

# %%
means = np.array([[0.0, 0.0], [3.2, 0.5], [0.8, 3.4], [4.2, 4.4]])
covariances = np.array(
    [[[0.6, 0.3], [0.3, 0.5]], [[0.4, -0.2], [-0.2, 0.6]], [[0.9, 0.0], [0.0, 0.25]], [[0.3, 0.2], [0.2, 0.8]]]
)
wanderer = cr.HMM(np.full(4, 0.25), 0.85 * np.eye(4) + 0.15 / 4, cr.emissions.MultivariateNormal(means, covariances))
places, track = map(np.asarray, wanderer.sample(jax.random.key(3), 400))

family = cr.emissions.MultivariateNormal()
starts = [jax.random.key(seed) for seed in range(6 if args.quick else 16)]
climbs = [cr.HMM.random(key, 4, family).fit(track, key=key) for key in starts]
ends = np.array([climb.log_prob for climb in climbs])
reached = ends > ends.max() - 1
good, bad = climbs[int(ends.argmax())].model.align(wanderer), climbs[int(ends.argmin())].model.align(wanderer)

heading("Local optima")
print(f"ends of {len(ends)} climbs: {' '.join(f'{end:.1f}' for end in np.sort(ends)[::-1])}")
print(f"{reached.sum()} of them reached the best end; true parameters score {wanderer.log_prob(track):.1f}")

# %% [markdown]
# ### How many states?
#
# The likelihood always rises with more states. Information criteria charge for parameters:
# $\mathrm{AIC} = 2p - 2\log L$ (Akaike 1974), $\mathrm{BIC} = p \log T - 2 \log L$ (Schwarz 1978). BIC charges more and
# finds the true number here; AIC aims at prediction and tends to take more states than there are. A look at
# `Fit.status` helps: a state that lives on a handful of points is reported as degenerate.

# %%
choices = {4: climbs[int(ends.argmax())]}
for num_states in (3, 5) if args.quick else (1, 2, 3, 5, 6):
    choices[num_states] = cr.HMM.random(jax.random.key(3), num_states, family).fit(
        track, restarts=8, key=jax.random.key(3)
    )
choices = dict(sorted(choices.items()))

heading("How many states?")
print("states   log L       AIC      BIC   status")
for num_states, fit in choices.items():
    print(f"{num_states:6d} {fit.log_prob:8.1f} {fit.aic:9.1f}{fit.bic:9.1f}   {fit.status.name}")
chosen = min(choices, key=lambda k: choices[k].bic)
print(f"BIC chooses {chosen} states")


# %%
def draw_states(ax, model):
    """Points in the colour of their decoded state, and the ellipse that holds 90 % of each state's probability."""
    decoded = model.viterbi(track).states
    ax.scatter(*track.T, c=np.array(COLOURS)[decoded], s=9, alpha=0.6, linewidth=0)
    ellipses = zip(np.asarray(model.emission.mean), np.asarray(model.emission.covariance), COLOURS, strict=False)
    for mean, covariance, colour in ellipses:
        widths, axes = np.linalg.eigh(covariance)
        angle = np.degrees(np.arctan2(axes[1, 1], axes[0, 1]))
        across, along = 2 * np.sqrt(4.605 * widths)  # the 90 % quantile of a chi-square with two degrees of freedom
        ax.add_patch(Ellipse(mean, along, across, angle=angle, fill=False, edgecolor=colour, linewidth=2.2))
    ax.set(xlabel="first feature", ylabel="second feature", aspect="equal", xlim=(-2.8, 6.2), ylim=(-2.9, 6.9))


figure, axes = plt.subplots(2, 2, figsize=(11, 8.6), height_ratios=(1, 1.5), layout="constrained")
for climb, top_end in zip(climbs, reached, strict=True):
    axes[0, 0].plot(climb.history, color=COLOURS[0] if top_end else GREY, linewidth=1.4)
axes[0, 0].plot([], [], color=COLOURS[0], label=f"{reached.sum()} reach the best end")
axes[0, 0].plot([], [], color=GREY, label=f"{(~reached).sum()} are stuck below")
axes[0, 0].set(xlabel="iteration", ylabel="log-likelihood", ylim=(np.min(ends) - 120, ends.max() + 30))
axes[0, 0].legend(frameon=False, loc="lower right")
axes[0, 0].set_title("Where EM ends depends on where it starts")
for name, colour in (("aic", GREY), ("bic", COLOURS[0])):
    axes[0, 1].plot(
        list(choices), [getattr(fit, name) for fit in choices.values()], "o-", color=colour, label=name.upper()
    )
arrow = {"arrowstyle": "->", "color": INK}
axes[0, 1].annotate(
    "BIC's choice", (chosen, choices[chosen].bic), (0, 45), textcoords="offset points", ha="center", arrowprops=arrow
)
axes[0, 1].set(xlabel="number of states", ylabel="criterion (smaller is better)", xticks=list(choices))
axes[0, 1].legend(frameon=False)
axes[0, 1].set_title(f"{chosen} states are enough")
draw_states(axes[1, 0], good)
axes[1, 0].set_title("The best end: each cluster has its state")
draw_states(axes[1, 1], bad)
axes[1, 1].set_title("A local optimum: one state holds two clusters")
save(figure, "local_optima")

# %% [markdown]
# ## 6. Structure: what cannot happen
#
# A machine wears: it goes from new to worn to failing and never back. Draw that as a graph. A missing edge is a
# *structural zero*, and learning keeps it: EM multiplies expected counts by the old probability, so zero stays zero.
#
# Twelve machines ran until they were stopped, each for another time, and the sensor was off now and then (NaN). Nobody
# labelled anything.

# %%
wear = nx.DiGraph()
wear.add_node("new", initial=1.0)
wear.add_edges_from([("new", "new"), ("new", "worn"), ("worn", "worn"), ("worn", "failing"), ("failing", "failing")])

factory = cr.HMM(
    [1.0, 0.0, 0.0],
    [[0.95, 0.05, 0.0], [0.0, 0.92, 0.08], [0.0, 0.0, 1.0]],
    cr.emissions.Normal([1.0, 1.6, 3.0], [0.09, 0.16, 0.49]),
    states=tuple(wear),
)
lives, levels = map(np.array, factory.sample(jax.random.key(5), 70, num_samples=12))
spans = rng.integers(40, 71, 12)
for level in levels:
    off = rng.integers(5, 55)
    level[off : off + 8] = np.nan
machines = [level[:span] for level, span in zip(levels, spans, strict=True)]

structured = cr.HMM.from_graph(wear, cr.emissions.Normal()).fit(machines, restarts=8, key=jax.random.key(6))
decoded = structured.model.viterbi(machines)
right_states = np.concatenate([path == life[: len(path)] for path, life in zip(decoded.states, lives, strict=True)])

heading("6. Machines that wear")
print(f"{structured!r}, from {len(machines)} machines of {spans.min()} to {spans.max()} hours")
print("levels:", ", ".join(f"{s} {m:.2f}" for s, m in zip(wear, structured.model.emission.mean, strict=True)))
forbidden = nx.to_numpy_array(wear) == 0
print(f"probability of forbidden steps: {np.asarray(structured.model.transition)[forbidden].sum()}")
print(f"states right: {right_states.mean():.1%}, sensor gaps included")

figure = plt.figure(figsize=(11, 6.6), layout="constrained")
ax = figure.subplot_mosaic("AAA;BCD", height_ratios=(0.8, 1), gridspec_kw={"wspace": 0.06})
cr.plotting.transition_graph(structured.model.graph(), ax=ax["A"])
colour_states(ax["A"])
ax["A"].set_title("No way back: the missing edges stay missing, the probabilities are learned")
instructive = np.argsort([-np.bincount(path, minlength=3).min() for path in decoded.states])[:3]
for place, machine in zip("BCD", instructive, strict=True):
    cr.plotting.series(
        machines[machine], decoded.states[machine], structured.model.emission.mean, states=tuple(wear), ax=ax[place]
    )
    ax[place].set(xlabel="hour (gaps: sensor off)", ylim=(0, 5.2))
    ax[place].set_title(f"Machine {machine + 1}")
    ax[place].get_legend().remove()
ax["B"].set_ylabel("vibration")
save(figure, "wear")

# %% [markdown]
# ### Holes in the data
#
# A missing observation says nothing, so its factor is one. Where one feature of several is missing, a Gaussian state is
# scored by the marginal of what is there. Nothing has to be filled in.

# %%
holes = track.copy()
holes[rng.random(len(track)) < 0.2] = np.nan
holes[rng.random(len(track)) < 0.3, 1] = np.nan
complete = (wanderer.viterbi(track).states == places).mean()
with_holes = (wanderer.viterbi(holes).states == places).mean()

heading("Holes in the data")
print(f"values missing: {np.isnan(holes).mean():.0%}")
print(f"states right: {complete:.1%} with all the data, {with_holes:.1%} with the holes")

# %% [markdown]
# ## 7. A prior for states that last
#
# Maximum likelihood knows no moderation. Here two regimes differ in level, and the noise has heavy tails. A state that
# collects the outliers explains them best, so that is what it learns, and the decoded path flickers. If we know that
# regimes last, we say so: a *sticky* prior adds pseudo-counts to each state's step to itself (Fox et al. 2011).

# %%
slow = cr.MarkovChain([0.5, 0.5], [[0.97, 0.03], [0.03, 0.97]])
regimes = np.asarray(
    cr.HMM(slow.initial, slow.transition, cr.emissions.Normal([0.0, 1.5], [1.0, 1.0])).sample(jax.random.key(1), 300)[0]
)
noisy = 1.5 * regimes + 0.7 * np.random.default_rng(1).standard_t(3, 300)
paths = {}
for stickiness in (0.0, 50.0):
    fit = cr.HMM.random(jax.random.key(3), 2, cr.emissions.Normal()).fit(
        noisy, restarts=8, key=jax.random.key(3), prior=HMMPrior(stickiness=stickiness)
    )
    model = fit.model.permute(np.argsort(np.asarray(fit.model.emission.mean)))
    paths[stickiness] = model, model.viterbi(noisy).states

heading("7. Maximum likelihood and a sticky prior")
print(f"true regimes: {(np.diff(regimes) != 0).sum()} switches")
for stickiness, (model, states) in paths.items():
    agree = (states == regimes).mean()
    switches = (np.diff(states) != 0).sum()
    spread = np.sqrt(np.asarray(model.emission.variance))
    print(
        f"stickiness {stickiness:4.0f}: {switches:3d} switches, {agree:.1%} of the steps right, "
        f"spreads {spread[0]:.2f} and {spread[1]:.2f}"
    )

figure, axes = plt.subplots(3, 1, figsize=(11, 6.4), sharex=True, height_ratios=(1, 1, 0.18), layout="constrained")
titles = ("Maximum likelihood: one state for the outliers", "A sticky prior: two levels that last")
for ax, title, (model, states) in zip(axes, titles, paths.values(), strict=False):
    cr.plotting.series(noisy, states, model.emission.mean, states=("low", "high"), ax=ax)
    ax.set(xlabel="", ylabel="value", ylim=(-5, 8))
    ax.set_title(title)
    ax.get_legend().remove()
axes[0].legend(frameon=False, ncols=2, loc="upper right")
axes[2].imshow(regimes[None], aspect="auto", cmap=ListedColormap(COLOURS[:2]), interpolation="nearest")
axes[2].set_yticks([0], ["truth"])
axes[2].tick_params(axis="y", length=0)
axes[2].spines[:].set_visible(False)
axes[2].set_xlabel("time")
save(figure, "sticky")

# %% [markdown]
# ## 8. What an engine has to guard against
#
# The forward algorithm fits on a page, and most first versions of it are wrong somewhere. Three traps:
#
# **A state locked in.** The chain starts in state 0 and cannot leave. The second observation, 50, is absurd under
# state 0 (a Gaussian around 0) and perfect under state 1. The true answer is finite, $\log p = -1251.8379$, and the
# posterior certain. An implementation that rescales by the largest *likelihood* divides zero by zero.

# %%
locked = cr.HMM([1.0, 0.0], np.eye(2), cr.emissions.Normal([0.0, 50.0], [1.0, 1.0]))
outlier = np.array([0.0, 50.0])

scores = np.asarray(locked.emission.log_prob(outlier), np.float32)
shifted = np.exp(scores - scores.max(1, keepdims=True))  # the trap: only state 1 survives this
alpha = np.array([1.0, 0.0], np.float32) * shifted[0] @ np.eye(2, dtype=np.float32) * shifted[1]

heading("8. What the engine guards against")
print(f"locked in, rescaled by the largest likelihood: p = {alpha.sum()}, and the posterior is 0/0")
answer = locked.posterior(outlier)
print(f"locked in, by the engine: log p = {answer.log_prob:.4f}, posterior {answer.marginals[1]}")

# %% [markdown]
# **Impossible evidence.** Where no path explains the data, $\log p$ is $-\infty$, the posterior is zero and so is the
# gradient. No small constant is added anywhere, for a small constant would make the impossible look likely.

# %%
copying = cr.HMM([1.0, 0.0], np.eye(2), cr.emissions.Categorical(np.eye(2)))
impossible = np.array([0, 1])
slope = jax.grad(lambda start: cr.HMM(start, copying.transition, copying.emission).log_prob(impossible))(
    copying.initial
)
print(f"impossible: log p = {copying.log_prob(impossible)}, gradient {slope}")

# %% [markdown]
# **Length.** In 32 bits, a sum of logarithms that is carried along loses its last digits to its own size. The engine
# normalises every step, keeps the logarithms apart and adds them up carefully.

# %%
long_rolls = np.asarray(casino.sample(jax.random.key(9), 20_000 if args.quick else 100_000)[1])
log_steps = np.log(np.asarray(casino.transition, np.float32))
log_scores = np.asarray(casino.emission.log_prob(long_rolls), np.float32)
carried = np.log(np.asarray(casino.initial, np.float32)) + log_scores[0]
for row in log_scores[1:]:
    carried = np.logaddexp(*(carried[:, None] + log_steps)) + row
reference = forward(casino, long_rolls)
print(f"{len(long_rolls)} rolls in float64: log p = {reference:.3f}")
print(f"in float32, carried along: off by {float(np.logaddexp(*carried)) - reference:+.3f} nats")
print(f"in float32, by the engine: off by {casino.log_prob(long_rolls) - reference:+.3f} nats")

# %% [markdown]
# ## References
#
# - H. Akaike (1974), A new look at the statistical model identification.
# - A. P. Dempster, N. M. Laird and D. B. Rubin (1977), Maximum likelihood from incomplete data via the EM algorithm.
# - R. Durbin, S. Eddy, A. Krogh and G. Mitchison (1998), *Biological Sequence Analysis*, chapter 3.
# - E. B. Fox, E. B. Sudderth, M. I. Jordan and A. S. Willsky (2011), A sticky HDP-HMM with application to speaker
#   diarization.
# - L. R. Rabiner (1989), A tutorial on hidden Markov models and selected applications in speech recognition.
# - G. Schwarz (1978), Estimating the dimension of a model.
# - A. J. Viterbi (1967), Error bounds for convolutional codes and an asymptotically optimum decoding algorithm.
#
# `quickstart.py` fits these models to real data and takes them to NumPyro.

# %%
print(f"\nFigures: {', '.join(sorted(path.name for path in args.out.glob('hmm_*.png')))} in {args.out}/")
