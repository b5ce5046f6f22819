"""Models that are trained once for a dataset and reused by every run: denoiser, dynamics, reward, other diffusions."""

from dydiff.models.base import PretrainedModule
from dydiff.models.denoiser import Denoiser
from dydiff.models.dynamics import DynamicsEnsemble
from dydiff.models.edm import EDMSampler
from dydiff.models.reward import RewardModel
from dydiff.models.trajectory_diffusion import TrajectoryDiffusion
from dydiff.models.transition_diffusion import TransitionDiffusion

__all__ = [
    "Denoiser",
    "DynamicsEnsemble",
    "EDMSampler",
    "PretrainedModule",
    "RewardModel",
    "TrajectoryDiffusion",
    "TransitionDiffusion",
]
