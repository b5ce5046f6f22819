"""The real environments: made as D4RL's data were collected, and played by a policy.

Importing this package registers Maze2d's ids with Gymnasium.
"""

from dydiff.envs import maze2d
from dydiff.envs.make import make_env

maze2d.register()

__all__ = ["make_env"]
