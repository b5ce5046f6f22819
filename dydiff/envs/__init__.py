"""The real environments: made as D4RL's data were collected, and played by a policy."""

from dydiff.envs.locomotion import make_env

__all__ = ["make_env"]
