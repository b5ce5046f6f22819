"""Collect episodes in the real environment."""

import numpy as np
import torch

from dydiff.data.episodes import Episodes, Transitions
from dydiff.data.tasks import Task
from dydiff.envs.evaluation import Policy
from dydiff.envs.make import make_env


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
