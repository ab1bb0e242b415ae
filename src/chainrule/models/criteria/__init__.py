"""What to maximise: criteria for `mdp.solve(criterion=…)`, where the expected discounted reward is not what matters.

- `Average`: the reward per step in the long run;

Example:
    >>> import chainrule as cr
    >>> mdp = cr.MDP([[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [1.0, 0.0]]], [[0.0, 0.0], [1.0, 0.0]], discount=0.9)
    >>> round(mdp.solve(criterion=cr.criteria.Average())[0], 6)
    1.0
"""

from .average import Average

__all__ = ["Average"]
