"""Datasets that are not D4RL's: files of one's own, Minari's, and environments that the task table does not know."""

import re
import shlex

import gymnasium as gym
import imageio
import numpy as np
import pytest
import torch
from conftest import ROOT
from gymnasium.envs.classic_control import PendulumEnv
from tiny import write_dataset

from dydiff.cli import main
from dydiff.data.gym_tasks import from_unit_actions, task_of, to_unit_actions
from dydiff.data.local import LocalSource
from dydiff.data.tasks import HOPPER, WALKER2D
from dydiff.data.termination import unknown
from dydiff.envs import make_env
from dydiff.envs.video import check_video, save_video
from dydiff.utils.errors import UserError

DOCUMENT = (ROOT / "docs/data.md").read_text()


def tall(obs, act, next_obs):
    return next_obs[..., 0] > 0.9


def test_an_environment_that_mujoco_does_not_draw_is_filmed(tmp_path, monkeypatch):
    task = task_of("Pendulum-v1")
    try:
        check_video(tmp_path / "swing.gif", task)
    except UserError as error:  # its drawing wants a package of its own
        assert str(error).startswith("PendulumEnv cannot be drawn. The error: ") and "MUJOCO" not in str(error)
        monkeypatch.setattr(PendulumEnv, "render", lambda self: np.zeros((8, 8, 3), np.uint8))
    check_video(tmp_path / "swing.gif", task)
    total = save_video(lambda obs: torch.zeros(1, 1), task, 0, tmp_path / "swing.gif")
    assert total < 0 and len(imageio.mimread(tmp_path / "swing.gif", memtest=False)) >= 1


def test_actions_of_another_width_are_told(tmp_path):
    """Also where they are to be stretched from bounds of their own."""
    obs = np.ones((48, 23), np.float32)
    write_dataset(tmp_path / "pusher.hdf5", attrs={"env_id": "Pusher-v5"}, observations=obs, next_observations=obs)
    with pytest.raises(UserError, match="'actions' has shape"):
        LocalSource(path=str(tmp_path / "pusher.hdf5")).load()


def test_the_documented_example_runs(tmp_path, monkeypatch):
    """The code and the command of docs/data.md, word for word, with fewer updates."""
    monkeypatch.chdir(tmp_path)
    exec(re.search(r"```python\n(.+?)```", DOCUMENT, re.S)[1], {})
    command = re.search(r"^    python -m dydiff (fit .+pendulum.+)$", DOCUMENT, re.M)[1]
    arguments = shlex.split(command.replace("configs/", f"{ROOT}/configs/"))
    base = ["--rollout", "null"]
    short = ["--trainer.max_epochs=1", "--trainer.check_val_every_n_epoch=1", "--data.init_args.updates_per_epoch=50"]
    assert main([*arguments, *base, *short, "--trainer.enable_progress_bar=false"]) == 0
    source = LocalSource(path="pendulum.npz", env_id="Pendulum-v1")
    data, task = source.load(), source.task
    assert (task.obs_dim, task.act_dim, task.episode_limit, task.terminated) == (3, 1, 200, unknown)
    assert data.lengths.tolist() == [200] * 25 and 0.9 < data.transitions.act.abs().max() <= 1


class TestTasks:
    def test_there_and_back(self):
        act, bounds = np.random.default_rng(0).uniform(-1, 1, (20, 2)), ((-3.0, 0.0), (1.0, 10.0))
        own = from_unit_actions(act, bounds)
        assert own[:, 0].min() < -1 and (own[:, 1] >= 0).all()
        np.testing.assert_allclose(to_unit_actions(own, bounds), act, atol=1e-5)

    def test_unit_actions_do_what_the_environments_own_do(self):
        """An action of 1 in [-1, 1] is the environment's largest."""
        ours, plain = make_env(task_of("Pendulum-v1")), gym.make("Pendulum-v1")
        for env in (ours, plain):
            env.reset(seed=3)
        for unit, own in ((1.0, 2.0), (-1.0, -2.0), (0.25, 0.5), (7.0, 2.0)):
            first, second = ours.step(np.array([unit], np.float32)), plain.step(np.array([own], np.float32))
            np.testing.assert_allclose(first[0], second[0], atol=1e-6)
            assert first[1] == pytest.approx(second[1], abs=1e-5)

    def test_rules_hold_for_every_version(self):
        later = task_of("Hopper-v5")
        assert later.terminated == HOPPER.terminated and later.mujoco2_contacts is False
        assert (later.score_min, later.score_max) == (0.0, 100.0)
        assert task_of("Walker2d-v4", mujoco2_contacts=True) == WALKER2D

    def test_what_is_given_is_taken(self):
        task = task_of("Pendulum-v1", score_min=-1600.0, score_max=-200.0, terminated=tall)
        assert (task.score_min, task.score_max, task.terminated) == (-1600.0, -200.0, tall)

    @pytest.mark.parametrize(
        ("env_id", "message"),
        [("Pendelum-v1", "Gymnasium cannot make"), ("CartPole-v1", "the agents need bounded vectors"),
         ("nowhere:Thing-v0", "nowhere"), ("FrozenLake-v1", "not vectors of numbers")],
    )  # fmt: skip
    def test_environments_that_cannot_be_used(self, env_id, message):
        with pytest.raises(UserError, match=message):
            task_of(env_id)

    @pytest.mark.parametrize(
        ("low", "high", "message"),
        [
            (-1e10, 1e10, r"of Bounded-v0 are not usable: action 0 is unbounded in effect, from -1e\+10 to 1e\+10"),
            (0.5, 0.5, "of Bounded-v0 are not usable: action 0 can only be 0.5"),
            (-np.inf, np.inf, "the agents need bounded vectors"),
        ],
    )
    def test_bounds_that_no_action_can_be_scaled_to(self, monkeypatch, low, high, message):
        box = gym.spaces.Box(np.float32(low), np.float32(high), (2,))

        class Bounded(PendulumEnv):
            def __init__(self):
                super().__init__()
                self.action_space = box

        monkeypatch.setitem(
            gym.registry, "Bounded-v0", gym.envs.registration.EnvSpec("Bounded-v0", Bounded, max_episode_steps=9)
        )
        with pytest.raises(UserError, match=message):
            task_of("Bounded-v0")

    def test_a_score_range_upside_down(self):
        with pytest.raises(UserError, match="must be less than"):
            task_of("Pendulum-v1", score_min=1.0, score_max=0.0)
