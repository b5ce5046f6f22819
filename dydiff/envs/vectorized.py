"""Many episodes of one environment, stepped together."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import gymnasium as gym
import mujoco
import numpy as np
from gymnasium.envs.mujoco.half_cheetah_v4 import HalfCheetahEnv
from gymnasium.envs.mujoco.hopper_v4 import HopperEnv
from gymnasium.envs.mujoco.walker2d_v4 import Walker2dEnv
from gymnasium.wrappers import ClipAction, OrderEnforcing, PassiveEnvChecker, TimeLimit
from numpy.typing import NDArray

from dydiff.envs.maze2d import MAX_VELOCITY, Maze2dEnv

Array = NDArray[Any]


class Together(ABC):
    """Episodes that step as one.

    Attributes:
        obs: First states, ``[N, O]``.
    """

    obs: Array

    @abstractmethod
    def step(self, act: Array, running: Array) -> tuple[Array, Array, Array]:
        """Step some of the episodes.

        Args:
            act: Actions ``[n, A]`` in [-1, 1].
            running: Indices of the episodes that step, ``[n]``.

        Returns:
            States ``[n, O]``, rewards ``[n]``, and bool ``[n]``: the episode has ended.
        """

    @abstractmethod
    def close(self) -> None:
        """Close the environments."""


def together(make: Callable[[], gym.Env], seeds: Sequence[int]) -> Together:
    """One episode for each seed: of the known MuJoCo environments in one simulator, of any other side by side."""
    env = make()
    kind = _SIMULATIONS.get(type(env.unwrapped))
    options = {} if env.spec is None else env.spec.kwargs
    usual = isinstance(env.unwrapped, Maze2dEnv) or set(options) <= {"render_mode"}
    wrappers = [type(wrapper) for wrapper in _wrappers(env)]
    if kind is None or not usual or set(wrappers) != _UNDERSTOOD or len(wrappers) != len(_UNDERSTOOD):
        return SideBySide([env, *(make() for _ in seeds[1:])], seeds)
    return kind(env, seeds)


def _wrappers(env: gym.Env) -> Iterator[gym.Wrapper]:
    while isinstance(env, gym.Wrapper):
        yield env
        env = env.env


class SideBySide(Together):
    """An environment for each episode.

    Args:
        envs: The environments.
        seeds: Of their resets.
    """

    def __init__(self, envs: Sequence[gym.Env], seeds: Sequence[int]) -> None:
        self.envs = envs
        self.obs = np.stack([env.reset(seed=int(seed))[0] for env, seed in zip(envs, seeds, strict=True)])

    def step(self, act: Array, running: Array) -> tuple[Array, Array, Array]:
        obs, reward, terminated, truncated, _ = zip(
            *(self.envs[number].step(each) for number, each in zip(running, act, strict=True)), strict=True
        )
        return np.stack(obs), np.array(reward, np.float64), np.array(terminated) | np.array(truncated)

    def close(self) -> None:
        for env in self.envs:
            env.close()


class Simulation(Together):
    """MuJoCo stepped directly, a world for each episode; states and rewards equal the environment's to the bit.

    Args:
        env: The environment, with its wrappers.
        seeds: Of the episodes' resets.
    """

    def __init__(self, env: gym.Env, seeds: Sequence[int]) -> None:
        self.env = env
        self.simulator = cast(Any, env.unwrapped)
        self.limit = int(env.get_wrapper_attr("_max_episode_steps"))
        self.model = self.simulator.model
        self.worlds: list[Any] = []
        first = []
        for seed in seeds:
            first.append(env.reset(seed=int(seed))[0])
            world = mujoco.MjData(self.model)
            mujoco.mj_copyData(world, self.model, self.simulator.data)
            self.worlds.append(world)
        self.obs = np.stack(first)
        self.controls = [world.ctrl for world in self.worlds]  # views: each access of the attribute makes one
        self.motions = [(world.qpos, world.qvel) for world in self.worlds]
        self.positions = np.stack([position for position, _ in self.motions])
        self.num_steps = np.zeros(len(seeds), np.int64)

    def step(self, act: Array, running: Array) -> tuple[Array, Array, Array]:
        act = np.clip(act, -1.0, 1.0)
        frames = self.simulator.frame_skip
        for number, each in zip(running, act, strict=True):
            self.controls[number][:] = each
            mujoco.mj_step(self.model, self.worlds[number], nstep=frames)
        before, moved = self.positions[running], [self.motions[number] for number in running]
        after, velocities = (np.array(values) for values in zip(*moved, strict=True))
        self.positions[running] = after
        self.num_steps[running] += 1
        obs, reward, terminated = self.outcome(act, before, after, velocities)
        return obs, reward, terminated | (self.num_steps[running] >= self.limit)

    @abstractmethod
    def outcome(self, act: Array, before: Array, after: Array, velocities: Array) -> tuple[Array, Array, Array]:
        """States, rewards and terminations of a step.

        Args:
            act: Actions ``[n, A]``.
            before: Positions before the step, ``[n, nq]``.
            after: Positions after it.
            velocities: Velocities after it, ``[n, nv]``.
        """

    def close(self) -> None:
        self.env.close()


class HalfCheetah(Simulation):
    """Runs without falling."""

    def outcome(self, act: Array, before: Array, after: Array, velocities: Array) -> tuple[Array, Array, Array]:
        return np.concatenate([after[:, 1:], velocities], 1), self.run(act, before, after), np.zeros(len(act), bool)

    def run(self, act: Array, before: Array, after: Array, alive: float = 0.0) -> Array:
        """Reward of running, of being alive, less the cost of control."""
        env = self.simulator
        velocity = (after[:, 0] - before[:, 0]) / env.dt
        return (env._forward_reward_weight * velocity + alive) - env._ctrl_cost_weight * np.square(act).sum(1)


class Walker2d(HalfCheetah):
    """Runs until it falls."""

    def outcome(self, act: Array, before: Array, after: Array, velocities: Array) -> tuple[Array, Array, Array]:
        obs = np.concatenate([after[:, 1:], velocities.clip(-10, 10)], 1)
        reward = self.run(act, before, after, self.simulator._healthy_reward)
        return obs, reward, ~self.healthy(after, velocities)

    def healthy(self, positions: Array, velocities: Array) -> Array:
        """Whether it stands, bool ``[n]``."""
        height, angle = positions[:, 1], positions[:, 2]
        return _within(height, self.simulator._healthy_z_range) & _within(angle, self.simulator._healthy_angle_range)


class Hopper(Walker2d):
    """Hops until it falls."""

    def healthy(self, positions: Array, velocities: Array) -> Array:
        state = np.concatenate([positions, velocities], 1)[:, 2:]
        return super().healthy(positions, velocities) & _within(state, self.simulator._healthy_state_range).all(1)


class Maze2d(Simulation):
    """A ball on its way to a goal."""

    def step(self, act: Array, running: Array) -> tuple[Array, Array, Array]:
        for number in running:
            velocity = self.motions[number][1]
            velocity[:] = velocity.clip(-MAX_VELOCITY, MAX_VELOCITY)
            mujoco.mj_forward(self.model, self.worlds[number])  # as the environment's set_state does
        return super().step(act, running)

    def outcome(self, act: Array, before: Array, after: Array, velocities: Array) -> tuple[Array, Array, Array]:
        reward = np.array([self.simulator.reward(position) for position in after])
        return np.concatenate([after, velocities], 1), reward, np.zeros(len(act), bool)


_SIMULATIONS: dict[type, type[Simulation]] = {
    HalfCheetahEnv: HalfCheetah,
    Walker2dEnv: Walker2d,
    HopperEnv: Hopper,
    Maze2dEnv: Maze2d,
}

# What an environment may be wrapped in for its simulation to do the same.
_UNDERSTOOD = {ClipAction, TimeLimit, OrderEnforcing, PassiveEnvChecker}


def _within(values: Array, bounds: tuple[float, float]) -> Array:
    return (bounds[0] < values) & (values < bounds[1])
