"""Lightning callbacks: when to roll out, what to show, keep and watch. Named by configs, unknown to ``dydiff``."""

from callbacks.checkpoint import LastCheckpoint
from callbacks.progress import StageProgress
from callbacks.q_values import QValueWatch
from callbacks.rollout import SyntheticRollout

__all__ = ["LastCheckpoint", "QValueWatch", "StageProgress", "SyntheticRollout"]
