"""Models of Gymnasium's tabular environments.

An environment whose dynamics are a table, `env.unwrapped.P[s][a] = [(probability, next state, reward, done), …]`, is a
decision process that can be solved exactly. Of Gymnasium's own these are FrozenLake, CliffWalking and Taxi (Towers et al.
2024). The model's states are the environment's observations 0, 1, …, and, where `done` needs it, one more state "done";
actions have the names that the environment's documentation gives them.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from ..graphs.tables import TableArrays, read_table
from ..models.mdp import MDP
from ..models.mdp_sources import from_table

if TYPE_CHECKING:
    import gymnasium

# by class name; subclasses count
_ACTIONS = {
    "FrozenLakeEnv": ("LEFT", "DOWN", "RIGHT", "UP"),
    "CliffWalkingEnv": ("UP", "RIGHT", "DOWN", "LEFT"),
    "TaxiEnv": ("SOUTH", "NORTH", "EAST", "WEST", "PICKUP", "DROPOFF"),
}


def from_gymnasium(environment: "str | gymnasium.Env", *, discount: float = 1.0, **options: Any) -> MDP:
    """Make the decision process of a tabular Gymnasium environment.

    An outcome that ends the episode is worth its reward and nothing after it. Time limits are no part of the model.

    Args:
        environment: an id such as "FrozenLake-v1", or an environment that is there already.
        discount: γ in [0, 1]; 1 means undiscounted.
        **options: given to `gymnasium.make` with an id, for example `is_slippery=False`.

    Raises:
        ImportError: Gymnasium is not installed.
        ValueError: an unknown id, options that it does not take, an environment without a table, or one whose steps
            differ from its table; a table that is no decision process.

    Example:
        >>> import chainrule as cr
        >>> lake = cr.rl.from_gymnasium("FrozenLake-v1", discount=0.99)
        >>> lake.actions
        ('LEFT', 'DOWN', 'RIGHT', 'UP')

    References:
        Towers et al. (2024), Gymnasium: A Standard Interface for Reinforcement Learning Environments, arXiv 2407.17032.
    """
    return MDP(**from_table(table_arrays(environment, **options)), discount=discount)


def table_arrays(environment: "str | gymnasium.Env", **options: Any) -> TableArrays:
    """Return the table of an environment as padded arrays; see `from_gymnasium`."""
    try:
        import gymnasium
    except ImportError as error:
        raise ImportError("rl.from_gymnasium needs Gymnasium: pip install 'chainrule[rl]'") from error
    if isinstance(environment, str):
        made = _make(gymnasium, environment, options)
        try:
            return _read(gymnasium, made)
        finally:
            made.close()
    if options:
        raise ValueError(
            f"options {sorted(options)} need an id, such as 'FrozenLake-v1'; the environment is there already"
        )
    return _read(gymnasium, environment)


def _make(gymnasium, name: str, options: dict):
    try:
        return gymnasium.make(name, **options)
    except (gymnasium.error.Error, TypeError) as error:  # TypeError: options that the environment does not take
        given = f" with {options}" if options else ""
        raise ValueError(f"Gymnasium cannot make {name!r}{given}: {error}") from error


def _read(gymnasium, environment) -> TableArrays:
    if not isinstance(environment, gymnasium.Env):
        raise ValueError(f"wanted a Gymnasium environment or its id, got {type(environment).__name__}")
    inner: Any = environment.unwrapped
    kind = type(inner).__name__
    if not hasattr(inner, "P"):
        raise ValueError(
            f"{kind} has no table P of its transitions (its observations are {environment.observation_space}); only "
            "tabular environments such as FrozenLake, CliffWalking and Taxi are decision processes that can be read off"
        )
    _check_faithful(gymnasium, environment, inner)
    names = next((_ACTIONS[base.__name__] for base in type(inner).__mro__ if base.__name__ in _ACTIONS), None)
    try:
        return read_table(inner.P, actions=names, initial=_initial(inner))
    except ValueError as error:
        raise ValueError(f"the table of {kind} is no decision process: {error}") from error


def _check_faithful(gymnasium, environment, inner):
    """Refuse what makes an environment step otherwise than its table says."""
    while isinstance(environment, gymnasium.Wrapper):
        if isinstance(environment, gymnasium.ObservationWrapper | gymnasium.ActionWrapper | gymnasium.RewardWrapper):
            raise ValueError(
                f"the wrapper {type(environment).__name__} changes observations, actions or rewards, of which the table "
                "knows nothing; give environment.unwrapped to have the process inside"
            )
        environment = environment.env
    if getattr(inner, "fickle_passenger", False):
        raise ValueError("with fickle_passenger=True, Taxi does not follow its table P; make it without that option")


def _initial(inner) -> np.ndarray | None:
    probs = getattr(inner, "initial_state_distrib", None)
    if probs is None or np.shape(probs) != (len(inner.P),):
        return None
    return np.asarray(probs, float)
