"""Locomotion datasets by D4RL's recipe: a soft actor-critic agent, its replay buffer and its checkpoints."""

from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from dydiff.collect.writer import write_dataset
from dydiff.data.episodes import Episodes
from dydiff.data.tasks import TASKS, Task
from dydiff.envs import make_env
from dydiff.envs.play import collect_episodes, play_episodes
from dydiff.utils.checkpoints import check_weights, load, save
from dydiff.utils.console import pip_install
from dydiff.utils.errors import UserError, at_least

LOCOMOTION = ("hopper", "halfcheetah", "walker2d")


def collect_locomotion(
    task: str = "hopper",
    dataset: Literal["medium-replay", "medium", "expert", "medium-expert"] = "medium-replay",
    num_transitions: int = 1_000_000,
    medium_score: float = 100 / 3,
    expert_score: float = 100.0,
    max_steps: int = 3_000_000,
    check_every: int = 10_000,
    seed: int = 0,
    out: str | None = None,
    work_dir: str = "runs/collect",
) -> Path:
    """Train Stable-Baselines3's SAC, and make a dataset of it.

    ``medium-replay`` is its replay buffer up to the first evaluation that reaches ``medium_score``; ``medium`` and
    ``expert`` are rollouts, with sampled actions, of the agents that reach their score; ``medium-expert`` is half of
    each. Training is kept in ``work_dir`` every ``check_every`` steps and shared by the datasets of one task and seed:
    an interrupted command resumes from there, with a new episode.

    Args:
        task: ``hopper``, ``halfcheetah`` or ``walker2d``.
        dataset: Kind of dataset.
        num_transitions: Transitions of rollouts; a replay buffer has as many as it has.
        medium_score: Normalised score of the medium agent, D4RL's third of the expert's.
        expert_score: Normalised score of the expert.
        max_steps: Environment steps after which an agent that has not reached its score is given up.
        check_every: Steps between evaluations of ten episodes.
        seed: Of the training and the rollouts.
        out: The file; ``null`` names it after the recipe in the working directory.
        work_dir: Folder of the training.

    Returns:
        The file.

    Raises:
        UserError: An unknown task, Stable-Baselines3 is not installed, or the score is not reached.
    """
    if task not in LOCOMOTION:
        raise UserError(f"collect locomotion knows {', '.join(LOCOMOTION)}, not '{task}'.")
    at_least(1, num_transitions=num_transitions, check_every=check_every, max_steps=max_steps)
    training = Training(TASKS[task], seed, max_steps, check_every, Path(work_dir) / f"{task}-sac-seed{seed}")
    path = Path(out or f"{task}-sac-{dataset}-seed{seed}.hdf5")
    scores = {"medium": medium_score, "expert": expert_score}
    if dataset == "medium-replay":
        arrays = training.replay_until(medium_score)
    else:
        kinds = ["medium", "expert"] if dataset == "medium-expert" else [dataset]
        for kind in kinds:  # first, for a rollout puts an earlier agent's weights in the place of the training's
            training.train_until(scores[kind])
        parts = [
            training.roll_out(scores[kind], num_transitions // len(kinds), seed + index)
            for index, kind in enumerate(kinds)
        ]
        arrays = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    recipe = (
        f"Stable-Baselines3 SAC, seed {seed}, {dataset}: medium agent at score {medium_score:.1f}, expert at "
        f"{expert_score:.1f}, evaluated every {check_every} steps; not D4RL's file"
    )
    write_dataset(path, arrays, TASKS[task].env_id, recipe)
    return path


class Training:
    """A soft actor-critic training that is saved on disk and can be resumed.

    Args:
        task: The task.
        seed: Of everything.
        max_steps: Environment steps at the most.
        check_every: Steps between evaluations, and between states on disk.
        folder: Where it is kept.

    Raises:
        UserError: Stable-Baselines3 is not installed.
    """

    def __init__(self, task: Task, seed: int, max_steps: int, check_every: int, folder: Path) -> None:
        try:
            from stable_baselines3 import SAC
        except ImportError:
            raise UserError(f"collect locomotion needs Stable-Baselines3: {pip_install('collect')}.") from None
        self.task = task
        self.max_steps = max_steps
        self.check_every = check_every
        self.folder = folder
        unclipped = make_env(task).env  # type: ignore[attr-defined]  # SAC wants to see the bounds, and keeps to them
        self.agent: Any = SAC("MlpPolicy", unclipped, buffer_size=max_steps, seed=seed, device="cpu")
        self.scores: list[tuple[int, float]] = []
        self._restore()

    @property
    def _state(self) -> Path:
        return self.folder / "training.pt"

    def train_until(self, score: float) -> int:
        """Go on until an evaluation reaches a score; returns the steps of the first one that did.

        Raises:
            UserError: ``max_steps`` pass before.
        """
        while True:
            reached = [steps for steps, each in self.scores if each >= score]
            if reached:
                return reached[0]
            if self.agent.num_timesteps >= self.max_steps:
                best = max(each for _, each in self.scores)
                raise UserError(
                    f"After {self.agent.num_timesteps:,} steps the best score is {best:.1f}, not {score:.1f}: raise "
                    "max_steps, lower the score, or try another seed."
                )
            steps = min(self.check_every, self.max_steps - self.agent.num_timesteps)
            self.agent.learn(steps, reset_num_timesteps=False)
            self.scores.append((self.agent.num_timesteps, self._evaluate()))
            self._keep()
            print(f"{self.agent.num_timesteps:,} steps: score {self.scores[-1][1]:.1f}", flush=True)

    def replay_until(self, score: float) -> dict[str, np.ndarray]:
        """The replay buffer up to the evaluation that reached the score."""
        count = self.train_until(score)
        buffer = self.agent.replay_buffer
        timeouts = buffer.timeouts[:count, 0].astype(bool)
        return {
            "observations": buffer.observations[:count, 0].astype(np.float32),
            "actions": buffer.actions[:count, 0].astype(np.float32),
            "rewards": buffer.rewards[:count, 0].astype(np.float32),
            "next_observations": buffer.next_observations[:count, 0].astype(np.float32),
            "terminals": buffer.dones[:count, 0].astype(bool) & ~timeouts,
            "timeouts": timeouts,
        }

    def roll_out(self, score: float, count: int, seed: int) -> dict[str, np.ndarray]:
        """Rollouts of the agent that reached the score, with sampled actions."""
        steps = self.train_until(score)
        path = self.folder / f"policy-{steps}.pt"
        weights = load(path)
        check_weights(weights, self.agent.policy.state_dict(), path, "policy")
        self.agent.policy.load_state_dict(weights)
        torch.manual_seed(seed)
        return _arrays(collect_episodes(self.task, partial(self._act, sample=True), count, seed))

    def _act(self, obs: Tensor, sample: bool) -> Tensor:
        return torch.from_numpy(self.agent.predict(obs.numpy(), deterministic=not sample)[0])

    def _evaluate(self) -> float:
        returns, _ = play_episodes(partial(self._act, sample=False), partial(make_env, self.task), range(10))
        return 100 * (returns.mean().item() - self.task.score_min) / (self.task.score_max - self.task.score_min)

    def _keep(self) -> None:
        buffer, steps = self.agent.replay_buffer, self.agent.num_timesteps
        names = ("observations", "actions", "rewards", "next_observations", "dones", "timeouts")
        state = {
            "steps": steps,
            "scores": self.scores,
            "parameters": self.agent.get_parameters(),
            "replay": {name: torch.from_numpy(getattr(buffer, name)[:steps].copy()) for name in names},
        }
        save(self.agent.policy.state_dict(), self.folder / f"policy-{steps}.pt")
        save(state, self._state)

    def _restore(self) -> None:
        if not self._state.is_file():
            return
        state = load(self._state, "steps", "scores", "parameters", "replay")
        if state["steps"] > self.max_steps:
            raise UserError(
                f"{self.folder} contains {state['steps']:,} steps, more than max_steps ({self.max_steps:,})."
            )
        self.agent.set_parameters(state["parameters"])
        self.agent.num_timesteps = state["steps"]
        self.scores = [tuple(each) for each in state["scores"]]
        buffer = self.agent.replay_buffer
        for name, values in state["replay"].items():
            getattr(buffer, name)[: len(values)] = values.numpy()
        last = state["steps"] - 1
        if last >= 0 and not buffer.dones[last].all():
            buffer.timeouts[last] = buffer.dones[last] = True  # the episode that was running ends here
        buffer.pos = state["steps"] % buffer.buffer_size
        buffer.full = state["steps"] == buffer.buffer_size


def _arrays(episodes: Episodes) -> dict[str, np.ndarray]:
    obs, act, reward, next_obs, terminal = (value.numpy() for value in episodes.transitions)
    return {
        "observations": obs,
        "actions": act,
        "rewards": reward,
        "next_observations": next_obs,
        "terminals": terminal,
        "timeouts": episodes.timeout.numpy(),
    }
