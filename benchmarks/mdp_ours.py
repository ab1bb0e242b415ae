"""chainrule's side of the MDP benchmark: what a user writes; see mdp_rivals.py for what a function here is."""

import mdp_data
import numpy as np
from mdp_rivals import Answer, Call


def model(problem: mdp_data.Problem):
    import chainrule as cr

    return cr.MDP(
        problem.probabilities,
        problem.rewards,
        successors=problem.successors,
        mask=problem.mask,
        terminal=problem.terminal,
        discount=problem.discount,
    )


def solve(problem: mdp_data.Problem) -> Call:
    """The defaults, on a model that is there already."""
    mdp = model(problem)
    return lambda: _answer(mdp.solve())


def build_and_solve(problem: mdp_data.Problem) -> Call:
    """The model made anew each time, its checks and the search for equal rows included."""
    return lambda: _answer(model(problem).solve())


def _answer(solution) -> Answer:
    values, lower, upper = (np.asarray(x) for x in (solution.values, solution.lower, solution.upper))
    return Answer(values, int(solution.iterations), lower, upper)


def variants(problems: list[mdp_data.Problem]):
    """All of them in one compiled call, in float64."""
    import jax
    import jax.numpy as jnp

    first = model(problems[0])
    with jax.enable_x64(True):
        probs = jnp.asarray(np.stack([problem.probabilities for problem in problems]))
        rewards = jnp.asarray(np.stack([problem.rewards for problem in problems]))

    @jax.jit
    @jax.vmap
    def solve_all(probs, rewards):
        return first.replace(probabilities=probs, rewards=rewards).solve().values

    def call():
        with jax.enable_x64(True):
            return np.asarray(solve_all(probs, rewards))

    return call
