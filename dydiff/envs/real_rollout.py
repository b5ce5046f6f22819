"""What really happens: set the state of the real environment, and play from there."""

from copy import copy
from typing import Any

import numpy as np
import torch
from gymnasium.envs.registration import EnvSpec
from torch import Tensor

from dydiff.data.gym_tasks import from_unit_actions
from dydiff.data.source import EpisodeSource
from dydiff.data.tasks import Task
from dydiff.data.termination import ended
from dydiff.envs.make import make_env
from dydiff.envs.play import Policy
from dydiff.utils.errors import UserError

VELOCITY_CLIP = 10.0  # Hopper's and Walker2d's observations show velocities only within it


def restorable(task: Task, obs: Tensor) -> Tensor:
    """Bool ``[N]``: whether a state ``obs [N, O]`` shows all that the simulator needs."""
    if not task.env_id.rpartition(":")[2].startswith(("Hopper", "Walker2d")):
        return torch.ones(len(obs), dtype=torch.bool)
    return (obs.abs() < VELOCITY_CLIP).all(-1)


def held_out_starts(source: EpisodeSource, holdout_fraction: float, count: int, seed: int) -> Tensor:
    """Up to ``count`` held-out states of a dataset that the simulator can be set to, drawn by a seed.

    Raises:
        UserError: It can be set to none of them.
    """
    episodes = source.load()
    obs = episodes.select(episodes.split(holdout_fraction)[1]).transitions.obs
    usable = obs[restorable(source.task, obs)]
    if len(usable) == 0:
        raise UserError(f"The simulator of {source.task.name} cannot be set to any of the {len(obs)} held-out states.")
    return usable[torch.randperm(len(usable), generator=torch.Generator().manual_seed(seed))[:count]]


@torch.no_grad()
def real_rollout(task: Task, start_obs: Tensor, policy: Policy, num_steps: int) -> tuple[Tensor, Tensor, Tensor]:
    """Play a policy from given states in the real environment.

    A locomotion state lacks the position along the track, on which the physics do not depend.

    Args:
        task: The task.
        start_obs: First states ``[N, O]``, :func:`restorable` ones.
        policy: Maps states ``[N, O]`` to actions ``[N, A]``; they are clipped to [-1, 1].
        num_steps: Steps to play, also after terminations.

    Returns:
        True states ``[N, num_steps + 1, O]``, actions ``[N, num_steps, A]``, and bool ``[N, num_steps]``: the step is
        before or at the first terminal one.

    Raises:
        UserError: The environment cannot be set to a state.
    """
    simulator, hidden = _settable(task)
    worlds = []
    for state in _whole(start_obs, hidden):
        _set_state(simulator, state)
        worlds.append(copy(simulator.data))
    states, actions = [start_obs], []
    for _ in range(num_steps):
        actions.append(policy(states[-1]).clamp(-1, 1))
        seen = np.empty(start_obs.shape, np.float32)
        played = from_unit_actions(actions[-1].numpy(), task.act_bounds)
        for row, (world, action) in enumerate(zip(worlds, played, strict=True)):
            simulator.data = world
            seen[row] = simulator.step(action)[0]
        states.append(torch.from_numpy(seen))
    obs, act = torch.stack(states, dim=1), torch.stack(actions, dim=1)
    terminal = ended(task.terminated, obs[:, :-1], act, obs[:, 1:])
    return obs, act, terminal.cumsum(1) - terminal.long() == 0


def real_next_states(task: Task, obs: Tensor, act: Tensor) -> Tensor:
    """The states ``[N, O]`` that really follow from states ``[N, O]`` under actions ``[N, A]``.

    Raises:
        UserError: The environment cannot be set to a state.
    """
    simulator, hidden = _settable(task)
    followed = np.empty(obs.shape, np.float32)
    played = from_unit_actions(act.clamp(-1, 1).numpy(), task.act_bounds)
    for row, (state, action) in enumerate(zip(_whole(obs, hidden), played, strict=True)):
        _set_state(simulator, state)
        followed[row] = simulator.step(action)[0]
    return torch.from_numpy(followed)


def _settable(task: Task) -> tuple[Any, int]:
    """The task's simulator, and how many of its positions the states do not show: the first ones.

    Raises:
        UserError: The environment cannot be set to a state.
    """
    if task.env_spec is not None and (wrappers := EnvSpec.from_json(task.env_spec).additional_wrappers):
        names = ", ".join(wrapper.name for wrapper in wrappers)
        raise UserError(f"{task.env_id} cannot be set to a given state: it is wrapped in {names}.")
    env = make_env(task)
    shown: Any = env.reset(seed=0)[0]
    simulator: Any = env.unwrapped
    if not hasattr(simulator, "set_state"):
        raise UserError(f"{task.env_id} cannot be set to a given state: only Gymnasium's MuJoCo environments can.")
    state = np.concatenate([simulator.data.qpos, simulator.data.qvel])
    hidden = len(state) - task.obs_dim
    if hidden < 0 or not np.allclose(state[hidden:], shown, atol=1e-5):
        raise UserError(f"{task.env_id} cannot be set to a given state: it shows more than positions and velocities.")
    return simulator, hidden


def _whole(obs: Tensor, hidden: int) -> np.ndarray:
    """Positions and velocities of states ``[N, O]``; those that are not shown are 0."""
    return np.insert(obs.double().numpy(), [0] * hidden, 0.0, axis=1)


def _set_state(simulator: Any, state: np.ndarray) -> None:
    simulator.set_state(state[: simulator.model.nq], state[simulator.model.nq :])
    simulator.data.qacc_warmstart[:] = 0.0  # of the contact solver: what was played before does not matter


class RecordedActions:
    """A policy that plays given actions ``[N, L, A]`` whatever it is shown: one step a call, or all steps at once."""

    def __init__(self, act: Tensor) -> None:
        self.act = act
        self.step = 0

    def __call__(self, obs: Tensor) -> Tensor:
        count, steps = self.act.shape[:2]
        if len(obs) == count * steps and steps > 1:
            return self.act.flatten(0, 1)
        self.step += 1
        return self.act[:, self.step - 1]
