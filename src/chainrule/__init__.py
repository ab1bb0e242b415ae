"""Probabilistic modelling in JAX: graphical models, Bayesian deep learning and Markov decision processes.

One sentence to remember: a graph describes a model, the model compiles to a few frozen array forms, and pure
inference engines run on those forms. The packages follow that sentence downwards:

- `graphs`: what a model is, networkx in and networkx out;
- `forms`: what an engine eats, frozen arrays;
- `inference`: engines, arrays in and arrays out;
- `learning`: how a model is fitted;
- `models`: what a user builds, fits, queries and samples;
- `neural`: networks as Equinox modules, which models take as callables;
- `bayes`: posteriors over models and networks, by NumPyro;
- `rl`: decision processes from Gymnasium's environments;
- `plotting`: pictures, by matplotlib;
- `evaluation`: how good predicted labels are.

Everything below loads on first use, so that importing the package costs little more than importing JAX.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# public name -> the module that defines it
_HOME = {
    "Chain": "forms.chain",
    "Pairwise": "forms.pairwise",
    "Sequences": "forms.sequences",
    "Transitions": "forms.transitions",
    "FactorGraph": "graphs.factor_graph",
    "TransitionGraph": "graphs.transition_graph",
    "CD": "learning.contrastive",
    "EM": "learning.em",
    "Adam": "learning.gradient",
    "LBFGS": "learning.gradient",
    "MiniBatch": "learning.minibatch",
    "AveragedPerceptron": "learning.minibatch",
    "PCD": "learning.contrastive",
    "Fit": "learning.fit",
    "DenoisingScoreMatching": "learning.energies",
    "LangevinPCD": "learning.energies",
    "NoiseContrastive": "learning.energies",
    "Safeguard": "learning.guarded",
    "SlicedScoreMatching": "learning.energies",
    "Status": "learning.fit",
    "Validation": "learning.validation",
    "BoltzmannMachine": "models.boltzmann",
    "MarkovRandomField": "models.boltzmann",
    "HMM": "models.hmm",
    "HMMPrior": "models.hmm",
    "LinearChainCRF": "models.crf",
    "SemiMarkovCRF": "models.semi_markov_crf",
    "Likelihood": "models.crf_objectives",
    "MaxMargin": "models.crf_objectives",
    "SoftmaxMargin": "models.crf_objectives",
    "attributes": "models.features",
    "dense": "models.features",
    "feature_function": "models.features",
    "neural_feature": "models.features",
    "segment_function": "models.features",
    "templates": "models.features",
    "EnergyModel": "models.energy",
    "JointEnergyModel": "models.joint_energy",
    "HMC": "inference.langevin",
    "MALA": "inference.langevin",
    "Langevin": "inference.langevin",
    "Hopfield": "models.hopfield",
    "DenseMemory": "models.hopfield",
    "ContinuousHopfield": "models.hopfield",
    "retrieve": "models.hopfield",
    "MarkovChain": "models.markov_chain",
    "ClassificationRBM": "models.rbm",
    "DeepBeliefNetwork": "models.rbm",
    "DeepBoltzmannMachine": "models.rbm",
    "RBM": "models.rbm",
    "Ratings": "models.ratings",
    "Recommender": "models.recommender",
    "MDP": "models.mdp",
    "Trajectories": "models.mdp_experience",
    "Evaluation": "models.policy",
    "Policy": "models.policy",
    "Solution": "models.policy",
    "SolveStatus": "models.policy",
    "AndersonAcceleration": "inference.planning.methods",
    "LinearProgram": "inference.planning.methods",
    "ModifiedPolicyIteration": "inference.planning.methods",
    "PolicyIteration": "inference.planning.methods",
    "ValueIteration": "inference.planning.methods",
    "bio_graph": "graphs",
    "bioes_graph": "graphs",
    "load": "io",
    "save": "io",
}
_MODULES = (
    "bayes",
    "evaluation",
    "forms",
    "graphs",
    "inference",
    "io",
    "learning",
    "models",
    "neural",
    "plotting",
    "rl",
)
_ALIASES = {
    "criteria": "models.criteria",
    "emissions": "models.emissions",
    "features": "models.features",
    "hopfield": "models.hopfield",
    "units": "models.rbm.units",
}

__all__ = sorted([*_HOME, *_MODULES, *_ALIASES])  # noqa: PLE0605

if TYPE_CHECKING:
    from . import bayes, evaluation, forms, graphs, inference, io, learning, models, neural, plotting, rl
    from .forms.chain import Chain
    from .forms.pairwise import Pairwise
    from .forms.sequences import Sequences
    from .forms.transitions import Transitions
    from .graphs import bio_graph, bioes_graph
    from .graphs.factor_graph import FactorGraph
    from .graphs.transition_graph import TransitionGraph
    from .inference.langevin import HMC, MALA, Langevin
    from .inference.planning.methods import (
        AndersonAcceleration,
        LinearProgram,
        ModifiedPolicyIteration,
        PolicyIteration,
        ValueIteration,
    )
    from .io import load, save
    from .learning.contrastive import CD, PCD
    from .learning.em import EM
    from .learning.energies import DenoisingScoreMatching, LangevinPCD, NoiseContrastive, SlicedScoreMatching
    from .learning.fit import Fit, Status
    from .learning.gradient import LBFGS, Adam
    from .learning.guarded import Safeguard
    from .learning.minibatch import AveragedPerceptron, MiniBatch
    from .learning.validation import Validation
    from .models import criteria, emissions, features, hopfield
    from .models.boltzmann import BoltzmannMachine, MarkovRandomField
    from .models.crf import LinearChainCRF
    from .models.crf_objectives import Likelihood, MaxMargin, SoftmaxMargin
    from .models.energy import EnergyModel
    from .models.features import attributes, dense, feature_function, neural_feature, segment_function, templates
    from .models.hmm import HMM, HMMPrior
    from .models.hopfield import ContinuousHopfield, DenseMemory, Hopfield, retrieve
    from .models.joint_energy import JointEnergyModel
    from .models.markov_chain import MarkovChain
    from .models.mdp import MDP
    from .models.mdp_experience import Trajectories
    from .models.policy import Evaluation, Policy, Solution, SolveStatus
    from .models.ratings import Ratings
    from .models.rbm import RBM, ClassificationRBM, DeepBeliefNetwork, DeepBoltzmannMachine, units
    from .models.recommender import Recommender
    from .models.semi_markov_crf import SemiMarkovCRF


def __getattr__(name: str) -> Any:
    """Import the module behind a public name when the name is first used (PEP 562)."""
    if name in _HOME:
        value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    elif name in _MODULES or name in _ALIASES:
        value = importlib.import_module(f"{__name__}.{_ALIASES.get(name, name)}")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
