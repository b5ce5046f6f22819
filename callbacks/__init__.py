"""Lightning callbacks: when to roll out, and what to show. Named by configs, imported by nothing in ``dydiff``."""

from callbacks.progress import StageProgress
from callbacks.rollout import SyntheticRollout

__all__ = ["StageProgress", "SyntheticRollout"]
