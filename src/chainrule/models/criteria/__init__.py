"""What to maximise: criteria for `mdp.solve(criterion=…)`, where the expected discounted reward is not what matters.

- `Average`: the reward per step in the long run;
- `Soft`: discounted rewards and the entropy of the policy;
- `Entropic`: discounted rewards under a nested entropic risk measure;
- `CVaR`: the mean of the worst returns of a finite horizon;
- `Robust`: discounted rewards under the worst probabilities within intervals;
- `Constrained`: discounted rewards with limits on expected costs.

Example:
    >>> import chainrule as cr
    >>> mdp = cr.MDP([[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [1.0, 0.0]]], [[0.0, 0.0], [1.0, 0.0]], discount=0.9)
    >>> round(mdp.solve(criterion=cr.criteria.Average())[0], 4)
    1.0
"""

from .average import Average
from .constrained import Constrained
from .returns import CVaR
from .risk import Entropic, Soft
from .robust import Robust

__all__ = ["Average", "CVaR", "Constrained", "Entropic", "Robust", "Soft"]
