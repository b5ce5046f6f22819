"""Collect transitions in the real environment."""

import numpy as np
import torch

from dydiff.data.episodes import Transitions
from dydiff.data.tasks import Task
from dydiff.envs.evaluation import Policy
from dydiff.envs.make import make_env


@torch.no_grad()
def collect_transitions(
    task: Task, policy: Policy, count: int, seed: int, num_envs: int = 10, device: torch.device | str = "cpu"
) -> Transitions:
    """Play from the environment's own resets; an episode that ends is followed by the next one.

    Args:
        task: The task.
        policy: Maps states ``[n, O]`` to actions ``[n, A]``; they are clipped to [-1, 1].
        count: Transitions to collect.
        seed: Of the first resets.
        num_envs: Environments played together, with one call of the policy a step.
        device: Where the policy is.

    Returns:
        ``[count]`` transitions, ``next_obs`` the true next state also at an episode's end.
    """
    envs = [make_env(task) for _ in range(min(num_envs, count))]
    obs = np.stack([env.reset(seed=seed + index)[0] for index, env in enumerate(envs)]).astype(np.float32)
    steps = []
    for _ in range(-(-count // len(envs))):
        act = policy(torch.as_tensor(obs, device=device)).clamp(-1, 1).cpu().numpy()
        reward, terminal = np.zeros(len(envs), np.float32), np.zeros(len(envs), bool)
        next_obs = np.empty_like(obs)
        following = np.empty_like(obs)
        for row, env in enumerate(envs):
            next_obs[row], reward[row], terminal[row], truncated, _ = env.step(act[row])
            following[row] = env.reset()[0] if terminal[row] or truncated else next_obs[row]
        steps.append((obs, act, reward, next_obs, terminal))
        obs = following
    for env in envs:
        env.close()
    stacked = (torch.from_numpy(np.concatenate(values)) for values in zip(*steps, strict=True))
    return Transitions(*stacked).at(slice(0, count)).to(device)
