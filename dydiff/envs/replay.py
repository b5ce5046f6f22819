"""What really happens: set the state of the real environment and replay actions."""

import numpy as np
import torch
from torch import Tensor

from dydiff.data.tasks import Task
from dydiff.envs.locomotion import make_env

VELOCITY_CLIP = 10.0  # Hopper's and Walker2d's observations show velocities only within it


def restorable(obs: Tensor) -> Tensor:
    """Bool ``[N]``: whether a state ``obs [N, O]`` of a locomotion task shows all that the simulator needs."""
    return (obs.abs() < VELOCITY_CLIP).all(-1)


def replay(task: Task, start_obs: Tensor, act: Tensor) -> tuple[Tensor, Tensor]:
    """Play given actions from given states in the real environment.

    A locomotion state lacks the position along the track, on which the physics do not depend.

    Args:
        task: A locomotion task.
        start_obs: First states ``[N, O]``, :func:`restorable` ones.
        act: Actions ``[N, L, A]``, clipped to [-1, 1].

    Returns:
        True states ``[N, L + 1, O]``, and bool ``[N, L]``: the step lies before or at the first terminal one.
    """
    env = make_env(task)
    env.reset(seed=0)
    simulator = env.unwrapped
    count, steps = act.shape[:2]
    obs = np.empty((count, steps + 1, start_obs.shape[1]), np.float32)
    for row in range(count):
        state = np.concatenate([[0.0], start_obs[row].double().numpy()])
        simulator.data.qacc_warmstart[:] = 0.0  # type: ignore[attr-defined]
        simulator.set_state(state[: simulator.model.nq], state[simulator.model.nq :])  # type: ignore[attr-defined]
        obs[row, 0] = start_obs[row].numpy()
        for step in range(steps):
            action = act[row, step].clamp(-1, 1).numpy()
            simulator.do_simulation(action, simulator.frame_skip)  # type: ignore[attr-defined]
            obs[row, step + 1] = simulator._get_obs()  # type: ignore[attr-defined]
    env.close()
    states = torch.from_numpy(obs)
    terminal = task.terminated(states[:, :-1], act, states[:, 1:])
    return states, terminal.cumsum(1) - terminal.long() == 0
