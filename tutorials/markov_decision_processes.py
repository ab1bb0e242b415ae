# %% [markdown]
# # Markov decision processes, from the beginning
#
# Somebody has to decide again and again: run the machine or repair it, order stock or wait, turn left or right. What
# happens next depends on chance, but only on where one is and what one does. The *value* of a state is the reward that
# the best way of deciding earns from there, a reward one step later counting $\gamma$ of one now:
#
# $$ v(s) = \max_a \Big\{ r(s, a) + \gamma \sum_{s'} p(s' \mid s, a) \, v(s') \Big\} $$
#
# This equation of Bellman's (1957) is all there is to it. The tutorial writes processes down in four ways, solves them,
# asks how sure an answer is and which other answers are as good, differentiates one, and learns one from data.
#
# Run it as a script (`python tutorials/markov_decision_processes.py --quick --out figures`) or cell by cell in an editor.

# %%
import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import gymnasium
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import networkx as nx
import numpy as np
from scipy.stats import poisson

import chainrule as cr

parser = argparse.ArgumentParser(description="Markov decision processes, from the beginning.")
parser.add_argument("--quick", action="store_true", help="fewer episodes, draws and solves")
parser.add_argument("--out", type=Path, default=Path("figures"), help="folder for the figures (default: figures)")
args, _ = parser.parse_known_args()  # a notebook has arguments of its own
args.out.mkdir(parents=True, exist_ok=True)

# mdp.solve() always works in 64 bits; gradients and batches follow what JAX is set to
jax.config.update("jax_enable_x64", True)
rng = np.random.default_rng(1957)

INK, GREY = "#22303C", "#9AA5AE"
BLUE, ORANGE, GREEN, PINK = "#0072B2", "#D55E00", "#009E73", "#CC79A7"  # as in chainrule.plotting
plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "axes.titlelocation": "left"})


def heading(text):
    print(f"\n{text}\n{'-' * len(text)}")


def save(figure, name):
    figure.savefig(args.out / f"mdp_{name}.png", dpi=150)
    plt.close(figure)


# %% [markdown]
# ## 1. A graph by hand
#
# A machine is new, worn or broken, and may be sold. States are nodes; an edge is one *outcome* of an action, with its
# probability and what it pays. What is not drawn cannot be done: nobody services a new machine.

# %%
OUTCOMES = [
    ("new", "run", "new", 0.7, 10),
    ("new", "run", "worn", 0.3, 10),
    ("new", "sell", "sold", 1.0, 60),
    ("worn", "run", "worn", 0.6, 6),
    ("worn", "run", "broken", 0.4, 6),
    ("worn", "service", "new", 0.75, -5),
    ("worn", "service", "worn", 0.25, -5),
    ("worn", "sell", "sold", 1.0, 20),
    ("broken", "replace", "new", 1.0, -40),
    ("broken", "sell", "sold", 1.0, 1),
]
graph = nx.MultiDiGraph()
graph.add_nodes_from(["new", "worn", "broken"])
graph.add_node("sold", terminal=True)
for state, action, after, probability, reward in OUTCOMES:
    graph.add_edge(state, after, action=action, probability=probability, reward=reward)

machine = cr.MDP.from_graph(graph, discount=0.9)
solution = machine.solve()

heading("1. A machine")
print(f"{machine!r}: {solution.status.name.lower()}")
for state, action in solution.policy.items():
    print(f"{state:>7}: worth {solution[state]:6.2f}, {'over' if action is None else action}")

# %% [markdown]
# Everything about a process can be asked for a whole batch of processes at once, here one for each discount. The owner
# who does not care for the future sells; the patient one runs the machine and looks after it.

# %%
discounts = jnp.linspace(0.5, 0.96, 24 if args.quick else 93)
worths = np.asarray(jax.vmap(lambda discount: machine.replace(discount=discount).solve().action_values)(discounts))
best = worths.argmax(2)
names = np.array(machine.actions)
plans = [tuple(names[row[:3]].tolist()) for row in best]
changes = [i for i, plan in enumerate(plans) if i == 0 or plan != plans[i - 1]]
for i in changes:
    print(f"from discount {discounts[i]:.3f}: new → {plans[i][0]}, worn → {plans[i][1]}, broken → {plans[i][2]}")

figure, (left, right) = plt.subplots(1, 2, figsize=(12, 5), width_ratios=(1.15, 1), layout="constrained")
cr.plotting.transition_graph(graph, ax=left)
left.set_title("An edge is one outcome of an action")
for state, colour in zip(("new", "worn", "broken"), (BLUE, ORANGE, GREEN), strict=True):
    s = machine.index(state)
    right.plot(discounts, worths[:, s].max(1), color=colour, linewidth=2, label=state)
    sell = worths[:, s, machine.actions.index("sell")]
    right.plot(discounts, sell, color=colour, linewidth=1.2, linestyle=":")
right.plot([], [], color=INK, linewidth=1.2, linestyle=":", label="if sold at once")
right.set(xlabel="discount", ylabel="value")
right.set_title("Patience pays: above its dots, keeping beats selling")
right.legend(frameon=False)
save(figure, "machine")

# %% [markdown]
# ## 2. How sure is that? Certificates
#
# Value iteration applies Bellman's equation until the values settle. When have they? A small change is no proof: at
# discount $\gamma$, values that still move by $\delta$ can be $\delta\gamma/(1-\gamma)$ away. MacQueen (1966) found that
# the smallest and the largest change bound the truth from both sides,
#
# $$ \frac{\gamma}{1-\gamma} \min_s \delta(s) \;\le\; v^*(s) - (Tv)(s) \;\le\; \frac{\gamma}{1-\gamma} \max_s \delta(s), $$
#
# and often close in long before the values come to rest, because what is left to change is nearly the same everywhere.
# `solution.lower` and `solution.upper` are these bounds, rounding errors included; `solve` stops when their middle is
# within `tolerance` (1e-6) of both.

# %%
mill = cr.MDP.random(jax.random.key(0), 2000, 5, num_successors=10, discount=0.99)
exact = mill.solve(tolerance=1e-9)
steps = np.arange(1, 21)
runs = [mill.solve(method=cr.ValueIteration(), max_iterations=int(n)) for n in steps]
inside = all((run.lower <= exact.upper).all() and (exact.lower <= run.upper).all() for run in runs)
plain, changed = [np.zeros(mill.num_states)], []
for _ in steps:  # the same by hand, without bounds
    form = mill.transitions
    backed_up = (form.rewards + 0.99 * (form.probabilities * plain[-1][form.successors]).sum(-1)).max(1)
    changed.append(np.abs(backed_up - plain[-1]).max())
    plain.append(backed_up)
errors = [np.abs(values - exact.values).max() for values in plain[1:]]

heading("2. Certificates")
print(f"after 20 steps: last change {changed[-1]:.2g}, true error of the plain values {errors[-1]:.2g}")
print(f"after 20 steps: lower and upper within {runs[-1].gap:.2g} of their middle; the truth is between: {inside}")
for method in (cr.ValueIteration(), cr.ModifiedPolicyIteration(), cr.PolicyIteration(evaluation="krylov")):
    found = mill.solve(method=method)
    print(f"{type(method).__name__}: {found.iterations} improvements, {found.sweeps} evaluations, gap {found.gap:.1g}")

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.6), layout="constrained")
shown = slice(0, 8)
left.fill_between(
    steps[shown],
    [run.lower[0] for run in runs[shown]],
    [run.upper[0] for run in runs[shown]],
    color=BLUE,
    alpha=0.25,
    linewidth=0,
    label="between lower and upper",
)
left.plot(steps[shown], [run.values[0] for run in runs[shown]], color=BLUE, marker="o", label="their middle: values")
left.plot(steps[shown], [values[0] for values in plain[1:9]], color=ORANGE, marker="o", label="plain value iteration")
left.axhline(exact.values[0], color=INK, linewidth=1, linestyle="--", label="truth")
left.set(xlabel="step", ylabel="value of one state")
left.set_title("The bounds close in while the values are still far away")
left.legend(frameon=False)
right.semilogy(steps, errors, color=ORANGE, linewidth=2, label="true error, plain")
right.semilogy(steps, changed, color=ORANGE, linewidth=1.5, linestyle=":", label="last change, plain")
right.semilogy(steps, [run.gap for run in runs], color=BLUE, linewidth=2, label="certified: half of (upper - lower)")
right.set(xlabel="step")
right.set_title("A small change says little; the certificate holds")
right.legend(frameon=False)
save(figure, "certificate")

# %% [markdown]
# ## 3. From Gymnasium: a frozen lake
#
# Environments with a table of their dynamics can be read off. On this lake one slips: a step goes where it was meant, or
# to either side, a third each. Falling into a hole ends the episode, and so does reaching the goal, which alone pays.
# The best policy looks strange: beside a hole it walks *away* from it, since the ice may take it sideways but never back.

# %%
lakes = {
    "slippery": cr.rl.from_gymnasium("FrozenLake-v1", discount=0.99),
    "not slippery": cr.rl.from_gymnasium("FrozenLake-v1", discount=0.99, is_slippery=False),
}
solved = {name: lake.solve() for name, lake in lakes.items()}

heading("3. Frozen lake")
for name, found in solved.items():
    print(f"{name}: the start is worth {found[0]:.4f}; there one goes {found.policy[0]}")

environment = gymnasium.make("FrozenLake-v1", max_episode_steps=10_000)  # the model has no time limit
moves = solved["slippery"].policy.table
returns = []
for episode in range(300 if args.quick else 3000):
    state, _ = environment.reset(seed=episode)
    total, weight, over = 0.0, 1.0, False
    while not over:
        state, reward, ended, cut, _ = environment.step(int(moves[state]))
        total, weight, over = total + weight * reward, 0.99 * weight, ended or cut
    returns.append(total)
environment.close()
doubt = np.std(returns) / np.sqrt(len(returns))
print(f"{len(returns)} episodes in Gymnasium: mean discounted return {np.mean(returns):.4f} ± {doubt:.4f}")

# %%
figure, axes = plt.subplots(1, 2, figsize=(11, 4.8), layout="constrained")
for ax, (name, found) in zip(axes, solved.items(), strict=True):
    holes = np.isin(np.arange(16), [5, 7, 11, 12]).reshape(4, 4)
    cr.plotting.values_on_grid(np.where(holes, np.nan, found.values[:16].reshape(4, 4)), ax)
    sensible = found.optimal_actions[:16] & (found.policy.table[:16, None] >= 0)
    cr.plotting.policy_on_grid(sensible.reshape(4, 4, 4), lakes[name].actions, ax)
    ax.text(3, 3, "goal", ha="center", va="center", color=INK)
    ax.set_title(f"{name}: {found[0]:.3f} from the start at the top left")
save(figure, "frozen_lake")

# %% [markdown]
# ## 4. From a function: a map with mud and pits
#
# `MDP.from_function` asks a function of yours what follows, and finds the states by itself. Here they are places on a
# map: a step costs 1, in mud (`~`) 4; the goal (`G`) ends it, and so does a pit (`o`), at a price of 60. With
# probability `slip` one goes to the left or to the right of what was meant.

# %%
MAP = """
.......#........
.####..#..~~~~..
.#.....#..~~~~..
.#..o..#..~~~~..
.#..o.....~~~~.G
.#..o..#........
.#.....#.ooo....
.####..#........
...~...#..~~~...
"""
rows = MAP.split()
STEPS = {"up": (-1, 0), "right": (0, 1), "down": (1, 0), "left": (0, -1)}
SIDES = {"up": ("left", "right"), "down": ("right", "left"), "left": ("down", "up"), "right": ("up", "down")}


def land(place, direction):
    """Where a step ends: walls and borders throw one back."""
    row, column = (a + b for a, b in zip(place, STEPS[direction], strict=True))
    inside = 0 <= row < len(rows) and 0 <= column < len(rows[0])
    return (row, column) if inside and rows[row][column] != "#" else place


def walking(slip):
    def step(place, direction):
        if rows[place[0]][place[1]] in "Go":
            return None
        outcomes = []
        for where, chance in ((direction, 1 - slip), *((side, slip / 2) for side in SIDES[direction])):
            after = land(place, where)
            outcomes.append((chance, after, -{"~": 4, "o": 60}.get(rows[after[0]][after[1]], 1)))
        return outcomes

    return cr.MDP.from_function(step, [START], tuple(STEPS), discount=0.99)


def on_the_map(values, states, missing=np.nan):
    """Put what belongs to states where they are."""
    found = np.full((len(rows), len(rows[0]), *values.shape[1:]), missing, values.dtype)
    found[tuple(np.array(states).T)] = values
    return found


START = (4, 0)
walks = {slip: walking(slip) for slip in (0.0, 0.3)}
walked = {slip: walk.solve() for slip, walk in walks.items()}

heading("4. A map")
for slip, found in walked.items():
    print(f"slip {slip}: {walks[slip]!r}, the start is worth {found[START]:.2f}, there one goes {found.policy[START]}")

figure, axes = plt.subplots(2, 1, figsize=(9, 10.5), layout="constrained")
for ax, (slip, found) in zip(axes, walked.items(), strict=True):
    states = walks[slip].states
    cr.plotting.values_on_grid(on_the_map(found.values, states), ax, numbers=False)
    cr.plotting.policy_on_grid(on_the_map(found.policy.table, states, -1), walks[slip].actions, ax)
    for symbol, name, colour in (("o", "pit", ORANGE), ("~", "mud", "#8A5A2B"), ("G", "goal", GREEN)):
        marked = np.argwhere(np.array([list(row) for row in rows]) == symbol)
        ax.plot(
            *marked.T[::-1], "s", color=colour, fillstyle="none", markersize=21, markeredgewidth=2, label=name, zorder=2
        )
    ax.plot(*START[::-1], "o", color=PINK, fillstyle="none", markersize=19, markeredgewidth=2, label="start", zorder=2)
    ax.set_title(f"slip {slip}: the start is worth {found[START]:.1f}")
axes[0].legend(frameon=False, ncols=4, loc="lower center", bbox_to_anchor=(0.5, -0.14))
save(figure, "map")

# %% [markdown]
# ## 5. Ties: the set of optimal actions
#
# Without slipping many ways to the goal are equally short. Which of them a solver returns is an accident of its
# rounding: two libraries draw different arrows for the same, correct values. What *is* determined is the set of optimal
# actions, `solution.optimal_actions`, or `best_actions(state)` by name. The solver keeps an action until another is
# better by more than rounding, so that ties cannot keep it from ending.

# %%
free, free_walk = walked[0.0], walks[0.0]
tied = [state for state in free_walk.states if len(free.best_actions(state)) > 1]

heading("5. Ties")
print(
    f"{len(tied)} of {free_walk.num_states} places have several optimal actions; {tied[0]}: {free.best_actions(tied[0])}"
)
worth = free.action_values[free_walk.index(tied[0])].round(6).tolist()
print(f"action values at {tied[0]}: {dict(zip(free_walk.actions, worth, strict=True))}")

room = cr.MDP.from_function(
    lambda place, d: None if place == (7, 7) else [(1.0, tuple(np.clip(np.add(place, STEPS[d]), 0, 7).tolist()), -1.0)],
    [(0, 0)],
    tuple(STEPS),
    discount=0.95,
)
empty = room.solve()
at = tuple(np.array(room.states).T)
one, every = np.full((8, 8), -1), np.zeros((8, 8, 4), bool)
one[at], every[at] = empty.policy.table, empty.optimal_actions & (empty.policy.table[:, None] >= 0)
values = np.zeros((8, 8))
values[at] = empty.values
figure, axes = plt.subplots(1, 2, figsize=(11, 5), layout="constrained")
for ax, drawn, title in zip(axes, (one, every), ("one optimal policy", "all optimal actions"), strict=True):
    cr.plotting.values_on_grid(values, ax, numbers=False)
    cr.plotting.policy_on_grid(drawn, room.actions, ax)
    ax.set_title(f"An empty room, goal at the bottom right: {title}")
save(figure, "ties")

# %% [markdown]
# ## 6. What is a reward worth? The gradient of a value
#
# By how much does the value of the start change if one place pays a little more? By the *discounted number of visits*
# of that place under the best policy: that is what differentiating Bellman's equation gives,
#
# $$ \frac{\partial v(s_0)}{\partial r(s, a)} = \sum_t \gamma^t \, P(s_t = s, a_t = a \mid s_0). $$
#
# `jax.grad` goes through `solve` by exactly that equation, without remembering a single iteration. (Where actions tie, a
# value has a kink; the gradient is then that of the action which the policy took.) A gradient on rewards is the start of
# inverse reinforcement learning; on probabilities, of sensitivity analysis.

# %%
walk = walks[0.3]
start = walk.index(START)
rewards = jnp.asarray(walk.transitions.rewards)


def worth_of_start(rewards):
    return walk.replace(rewards=rewards).solve(tolerance=1e-10).values[start]


gradient = np.asarray(jax.grad(worth_of_start)(rewards))
visits = gradient.sum(1)
busiest = np.argsort(-visits)[:3]

heading("6. Gradients")
for s in busiest:
    a = gradient[s].argmax()
    nudge = jnp.zeros_like(rewards).at[s, a].set(1e-4)
    slope = (worth_of_start(rewards + nudge) - worth_of_start(rewards - nudge)) / 2e-4
    print(f"{walk.states[s]}, {walk.actions[a]}: gradient {gradient[s, a]:.6f}, by finite differences {slope:.6f}")
same = np.allclose(gradient, walk.occupancy(walked[0.3].policy, start=START), atol=1e-6)
print(f"sum over all places: {visits.sum():.4f}, the discounted length of the walk; equal to mdp.occupancy: {same}")

figure, ax = plt.subplots(figsize=(9, 5), layout="constrained")
shown = on_the_map(visits, walk.states)
cr.plotting.values_on_grid(shown, ax, numbers=False, label="discounted visits = gradient")
cr.plotting.policy_on_grid(
    on_the_map(np.where(visits > 0.02, walked[0.3].policy.table, -1), walk.states, -1), walk.actions, ax
)
ax.set_title("How much the value of the start gains where a place pays one more")
save(figure, "gradient")

# %% [markdown]
# ## 7. Inventory: structure in the answer
#
# A shop sells about twenty pieces a day for 2 each. A piece costs 1, an order 8 whatever its size, a piece on the shelf
# 0.05 a day; who finds the shelf empty is lost. Scarf (1960) proved what the best policy looks like when an order has a
# fixed price: two numbers, *s* and *S*. When the stock is at s or below, order up to S; else do nothing. The solver knows
# nothing of it, and finds it. Many of the rows of this process are equal, since only the stock *after* ordering matters;
# the library finds that and computes each expectation once.

# %%
CAPACITY, MEAN = 200, 20
demand = np.arange(64)
chances = poisson.pmf(demand, MEAN)
chances[-1] += poisson.sf(demand[-1], MEAN)
stock, order = np.meshgrid(np.arange(CAPACITY + 1), np.arange(CAPACITY + 1), indexing="ij")
level = np.minimum(stock + order, CAPACITY)
sales = np.minimum(level[..., None], demand) @ chances


def shop(fixed):
    return cr.MDP(
        np.broadcast_to(chances, (*level.shape, len(demand))),
        2 * sales - order - fixed * (order > 0) - 0.05 * level,
        successors=np.maximum(level[..., None] - demand, 0).astype(np.int32),
        mask=stock + order <= CAPACITY,
        discount=0.99,
    )


def two_numbers(orders):
    """Read s and S off a policy, if it has that form."""
    ordering = np.flatnonzero(orders > 0)
    s, S = ordering.max(initial=-1), (ordering + orders[ordering]).max(initial=0)
    expected = np.where(np.arange(len(orders)) <= s, S - np.arange(len(orders)), 0)
    return (int(s), int(S)) if np.array_equal(orders, expected) else None


usual = shop(8.0)
found = usual.solve()
s, S = two_numbers(found.policy.table)
rows_kept = len(usual.transitions.probabilities)

heading("7. Inventory")
print(f"{usual.transitions.mask.sum()} pairs of stock and order; distinct rows kept: {rows_kept}")
print(f"the best policy: at {s} pieces or fewer order up to {S}; an empty shop is worth {found[0]:.2f}")

costs = np.linspace(0, 40, 9 if args.quick else 21)
both = np.array([two_numbers(shop(cost).solve(start=found.values).policy.table) for cost in costs])
print(f"for all {len(costs)} prices of an order the policy has that form: {not np.isnan(both.astype(float)).any()}")

figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.4), layout="constrained")
shown = np.arange(121)
left.step(shown, found.policy.table[:121], where="mid", color=BLUE, linewidth=2)
left.set(xlabel="stock in the evening", ylabel="pieces to order")
left.set_title(f"At {s} or fewer order up to {S}, else nothing")
right.fill_between(costs, both[:, 0], both[:, 1], color=BLUE, alpha=0.15, linewidth=0)
right.plot(costs, both[:, 1], color=BLUE, linewidth=2, marker="o", markersize=4, label="S: order up to")
right.plot(costs, both[:, 0], color=ORANGE, linewidth=2, marker="o", markersize=4, label="s: when at or below")
right.set(xlabel="price of an order", ylabel="stock", ylim=(0, None))
right.set_title("The dearer an order, the rarer and larger orders are")
right.legend(frameon=False)
save(figure, "inventory")

# %% [markdown]
# ## 8. When the process must be learned
#
# Nobody tells the probabilities of the machine of section 1; one watches it. `mdp.posterior` puts a Dirichlet prior on each
# row, over what the graph allows, and returns draws from the posterior: *one process whose arrays have a leading axis*.
# `vmap` solves all of them (at a discount of 0.92): the result is a posterior of the value, and of which action is best.
# That running a new machine beats selling it may be known long before the probabilities are.

# %%
patient = machine.replace(discount=0.92)
pairs = {}
for state, action, after, probability, reward in OUTCOMES:
    pairs.setdefault((state, action), []).append((probability, after, reward))


def watch(trials):
    """Try every action so many times, and write down (state, action, reward, next state)."""
    steps = []
    for (state, action), outcomes in pairs.items():
        for i in rng.choice(len(outcomes), trials, p=[probability for probability, _, _ in outcomes]):
            steps.append((state, action, outcomes[i][2], outcomes[i][1]))
    return steps


@jax.jit
@jax.vmap
def solve_draw(process):
    best = process.solve()
    return best.values, best.policy.table


heading("8. Learning the machine")
posteriors, truth, new, run = {}, patient.solve(), machine.index("new"), machine.actions.index("run")
for trials in (4, 20, 200):
    drawn = patient.posterior(jax.random.key(trials), watch(trials), num_draws=500 if args.quick else 4000)
    values, tables = (np.asarray(x) for x in solve_draw(drawn))
    posteriors[trials] = values[:, new]
    low, high = np.quantile(values[:, new], [0.05, 0.95])
    print(
        f"{trials:3d} trials of each action: a new machine is worth {low:.1f} to {high:.1f} (90 %), "
        f"P(running it is best) = {(tables[:, new] == run).mean():.2f}"
    )
print(f"truth: {truth['new']:.1f}")

figure, ax = plt.subplots(figsize=(8, 4.2), layout="constrained")
for (trials, values), colour in zip(posteriors.items(), (GREY, ORANGE, BLUE), strict=True):
    ax.ecdf(values, color=colour, linewidth=2, label=f"{trials} trials of each action")
ax.axvline(truth["new"], color=INK, linewidth=1.2, linestyle="--", label="truth")
ax.axvline(60, color=INK, linewidth=1, linestyle=":", label="price of a new machine")
ax.set(xlabel="value of a new machine", ylabel="posterior probability of less", xlim=(55, 110))
ax.set_title("What is not yet known about the machine is doubt about its value")
ax.legend(frameon=False, loc="lower right")
save(figure, "posterior")

# %% [markdown]
# ## Where to go on
#
# The docstrings of `cr.MDP` list what else a process can be made from (scipy-sparse matrices, arrays, tables) and asked
# for: the chain of a policy, simulated walks, finite horizons.
# `hidden_markov_models.py` is about chains whose states are not seen.

# %%
print(f"\nFigures: {', '.join(sorted(path.name for path in args.out.glob('mdp_*.png')))} in {args.out}/")
