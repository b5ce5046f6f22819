"""Play episodes with a policy, and score them as D4RL does."""

from collections.abc import Callable, Sequence
from typing import Any, cast

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from dydiff.envs.together import together

Policy = Callable[[Tensor], Tensor]
"""``policy(obs [N, O]) -> act [N, A]`` in [-1, 1], on raw states."""


@torch.no_grad()
def play_episodes(
    policy: Policy, make: Callable[[], gym.Env], seeds: Sequence[int], device: torch.device | str = "cpu"
) -> tuple[Tensor, Tensor]:
    """Play one episode for each seed, all at once with one call of the policy a step.

    Args:
        policy: Maps states ``[n, O]`` to actions ``[n, A]``; ``n`` shrinks as episodes end.
        make: Creates an environment.
        seeds: One for each episode's reset.
        device: Where the policy is.

    Returns:
        Undiscounted returns and lengths, float32 and int64, each ``[len(seeds)]``.
    """
    episodes = together(make, seeds)
    obs = episodes.obs
    returns, lengths = np.zeros(len(seeds)), np.zeros(len(seeds), np.int64)
    running = np.arange(len(seeds))
    while len(running):
        act = policy(torch.as_tensor(obs, dtype=torch.float32, device=device)).cpu().numpy()
        obs, reward, done = episodes.step(act, running)
        returns[running] += reward
        lengths[running] += 1
        obs, running = obs[~done], running[~done]
    episodes.close()
    return torch.tensor(returns, dtype=torch.float32), torch.tensor(lengths)


class NormalizedScore(Metric):
    """D4RL's normalised score over episodes, ``100 (return - score_min) / (score_max - score_min)``.

    ``compute`` returns ``score`` and ``score_std`` (mean and standard deviation over episodes), ``return``,
    ``return_std`` and ``length`` (means over episodes).

    Args:
        score_min: Return of score 0.
        score_max: Return of score 100.
    """

    full_state_update = False

    def __init__(self, score_min: float, score_max: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.score_min = score_min
        self.score_max = score_max
        self.add_state("returns", default=[], dist_reduce_fx="cat")
        self.add_state("lengths", default=[], dist_reduce_fx="cat")

    def update(self, returns: Tensor, lengths: Tensor) -> None:
        """Add episodes: their returns and lengths, each ``[n]``."""
        cast(list[Tensor], self.returns).append(returns)
        cast(list[Tensor], self.lengths).append(lengths.float())

    def compute(self) -> dict[str, Tensor]:
        returns, lengths = (dim_zero_cat(cast(list[Tensor], state)) for state in (self.returns, self.lengths))
        scores = 100 * (returns - self.score_min) / (self.score_max - self.score_min)
        return {
            "score": scores.mean(),
            "score_std": scores.std(correction=0),
            "return": returns.mean(),
            "return_std": returns.std(correction=0),
            "length": lengths.mean(),
        }
