"""Play episodes with a policy: to score it as D4RL does, or for their transitions."""

from collections.abc import Callable, Sequence
from typing import Any, cast

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from dydiff.data.episodes import Episodes, Transitions
from dydiff.data.tasks import Task
from dydiff.envs.make import make_env
from dydiff.envs.vectorized import together

Policy = Callable[[Tensor], Tensor]
"""``policy(obs [N, O]) -> act [N, A]`` in [-1, 1], on raw states; an agent's also has ``log_prob(obs, act) -> [N]`` and
``value(obs) -> [N]``."""


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


@torch.no_grad()
def collect_episodes(
    task: Task, policy: Policy, count: int, seed: int, num_envs: int = 10, device: torch.device | str = "cpu"
) -> Episodes:
    """Play from the environment's own resets; an episode that ends is followed by the next one.

    Args:
        task: The task.
        policy: Maps states ``[n, O]`` to actions ``[n, A]``; they are clipped to [-1, 1].
        count: Transitions to collect.
        seed: Of the first resets.
        num_envs: Environments played together, with one call of the policy a step.
        device: Where the policy is.

    Returns:
        ``count`` transitions; each environment's last episode is cut where the collection ends.
    """
    envs = [make_env(task) for _ in range(min(num_envs, count))]
    shares = [len(part) for part in np.array_split(np.arange(count), len(envs))]
    obs = np.stack([env.reset(seed=seed + index)[0] for index, env in enumerate(envs)]).astype(np.float32)
    steps: list[list[tuple[np.ndarray, ...]]] = [[] for _ in envs]
    for step in range(shares[0]):  # the first share is the largest
        act = policy(torch.as_tensor(obs, device=device)).clamp(-1, 1).cpu().numpy()
        for row, (env, share) in enumerate(zip(envs, shares, strict=True)):
            if step == share:
                continue
            next_obs, reward, terminal, truncated, _ = env.step(act[row])
            cut = (truncated or step == share - 1) and not terminal
            values = (obs[row].copy(), act[row], reward, next_obs, terminal, cut)
            steps[row].append(tuple(np.asarray(value) for value in values))
            obs[row] = env.reset()[0] if terminal or truncated else next_obs
    for env in envs:
        env.close()
    columns = [np.stack(column) for column in zip(*(values for rows in steps for values in rows), strict=True)]
    tensors = [torch.from_numpy(column.astype(np.float32) if column.dtype != bool else column) for column in columns]
    ends = (tensors[4] | tensors[5]).nonzero().flatten()
    lengths = torch.diff(ends, prepend=torch.tensor([-1]))
    return Episodes(Transitions(*tensors[:5]), tensors[5], lengths)


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
