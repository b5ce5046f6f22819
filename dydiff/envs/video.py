"""An episode as a video."""

import warnings
from pathlib import Path
from typing import Any, cast

import gymnasium as gym
import imageio
import numpy as np
import torch

from dydiff.data.tasks import Task
from dydiff.envs.make import make_env
from dydiff.envs.play import Policy
from dydiff.utils.console import pip_install
from dydiff.utils.errors import UserError, first_line
from dydiff.utils.files import replacing

FORMATS = (".gif", ".mp4")
_FRAMES_PER_SECOND = 25


def check_video(path: Path, task: Task) -> None:
    """Refuse what cannot be drawn or written, before anything is played.

    Raises:
        UserError: Neither a GIF nor an MP4, the encoder is not installed, or the machine cannot draw.
    """
    if path.suffix not in FORMATS:
        raise UserError(f"A video is a {' or '.join(FORMATS)} file, not '{path}'.")
    if path.suffix == ".mp4":
        try:
            import imageio_ffmpeg  # noqa: F401
        except ModuleNotFoundError:
            raise UserError(f"MP4 needs its encoder: {pip_install('video')}; GIF needs nothing.") from None
    env = _filmed(task, 32)
    env.reset(seed=0)
    _draw(env)
    env.close()


@torch.no_grad()
def save_video(
    policy: Policy, task: Task, seed: int, path: Path, size: int = 320, device: torch.device | str = "cpu"
) -> float:
    """Play one episode and save what a camera sees, in real time at 25 frames a second.

    Args:
        policy: Maps states ``[1, O]`` to actions ``[1, A]``.
        task: The task.
        seed: Of the episode's reset: the same episode as in an evaluation with this seed.
        path: A GIF or MP4 file.
        size: Width and height in pixels, where MuJoCo draws; other environments have sizes of their own.
        device: Where the policy is.

    Returns:
        The undiscounted return.
    """
    env = _filmed(task, size)
    stride = max(1, round(env.metadata.get("render_fps", _FRAMES_PER_SECOND) / _FRAMES_PER_SECOND))
    obs, _ = env.reset(seed=seed)
    frames, total, done, step = [_draw(env)], 0.0, False, 0
    while not done:
        act = policy(torch.as_tensor(obs, dtype=torch.float32, device=device)[None]).cpu().numpy()[0]
        obs, reward, terminated, truncated, _ = env.step(act)
        total, step, done = total + float(reward), step + 1, terminated or truncated
        if step % stride == 0 or done:
            frames.append(_draw(env))
    env.close()
    options: dict[str, float] = {"fps": _FRAMES_PER_SECOND}
    if path.suffix == ".gif":
        options = {"loop": 0, "duration": 1000 / _FRAMES_PER_SECOND}
    with replacing(path) as part:
        part.write_bytes(
            imageio.mimwrite("<bytes>", cast(list[Any], frames), format=path.suffix[1:].upper(), **options)
        )
    return total


def _filmed(task: Task, size: int) -> gym.Env:
    """The environment, to be drawn."""
    try:
        env = make_env(task, render_mode="rgb_array")
    except Exception as error:  # an environment may raise anything
        raise UserError(f"{task.env_id} cannot be drawn: {first_line(error)}") from None
    if not _by_mujoco(env):
        return env
    env.close()
    return make_env(task, render_mode="rgb_array", width=size, height=size)


def _by_mujoco(env: gym.Env) -> bool:
    return hasattr(env.unwrapped, "mujoco_renderer")


def _draw(env: gym.Env) -> np.ndarray:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return np.asarray(env.render())
    except Exception as error:  # OpenGL libraries fail in ways of their own
        advice = "."
        if _by_mujoco(env):
            advice = " here. Without a display, put MUJOCO_GL=egl (or osmesa) before the command, and install that."
        raise UserError(
            f"{type(env.unwrapped).__name__} cannot be drawn{advice} The error: {first_line(error)}"
        ) from None
