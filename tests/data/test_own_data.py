"""Datasets that are not D4RL's: files of one's own, Minari's, and environments that the task table does not know."""

import re
import shlex

import gymnasium as gym
import imageio
import minari
import numpy as np
import pytest
import torch
from conftest import ROOT
from gymnasium.envs.classic_control import PendulumEnv
from minari.data_collector.episode_buffer import EpisodeBuffer
from tiny import write_dataset

from dydiff.cli import main
from dydiff.data.gym_tasks import from_unit_actions, task_of, to_unit_actions
from dydiff.data.local import LocalSource
from dydiff.data.minari import MinariSource
from dydiff.data.tasks import HOPPER, WALKER2D, never
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
        assert str(error).startswith("PendulumEnv cannot be drawn. It said: ") and "MUJOCO" not in str(error)
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
    assert (task.obs_dim, task.act_dim, task.episode_limit, task.terminated) == (3, 1, 200, never)
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
        assert later.terminated is HOPPER.terminated and later.mujoco2_contacts is False
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

    def test_a_score_range_upside_down(self):
        with pytest.raises(UserError, match="must lie below"):
            task_of("Pendulum-v1", score_min=1.0, score_max=0.0)


@pytest.fixture
def minari_dataset(tmp_path, monkeypatch):
    """A local Minari dataset of pendulum episodes; returns its id and the episodes."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))

    def make(name="pendulum/random-v0", env_id="Pendulum-v1", terminate=(), options=None, **metadata):
        env, buffers = gym.make(env_id, **(options or {})), []
        env.action_space.seed(0)
        for episode in range(3):
            obs, _ = env.reset(seed=episode)
            states, actions, rewards = [obs], [], []
            for _ in range(20 + episode):
                actions.append(env.action_space.sample())
                obs, reward, *_ = env.step(actions[-1])
                states.append(obs)
                rewards.append(reward)
            ended = [False] * (len(rewards) - 1) + [True]
            falls = episode in terminate
            flags = {"terminations": ended if falls else [False] * len(ended), "truncations": ended}
            if isinstance(obs, dict):
                states = {key: np.array([state[key] for state in states]) for key in obs}
            buffers.append(EpisodeBuffer(
                id=episode, observations=states if isinstance(states, dict) else np.array(states),
                actions=np.array(actions), rewards=rewards, infos={}, **flags))  # fmt: skip
        minari.create_dataset_from_buffers(name, buffers, env=env, **metadata)
        return name, buffers

    return make


class TestMinari:
    def test_every_transition_is_there(self, minari_dataset):
        name, buffers = minari_dataset(terminate=(1,), ref_min_score=-1500.0, ref_max_score=-100.0)
        source = MinariSource(name)
        data, task = source.load(), source.task
        assert task.env_id == "Pendulum-v1" and (task.score_min, task.score_max) == (-1500.0, -100.0)
        assert data.lengths.tolist() == [20, 21, 22] and source.name == "pendulum-random-v0"
        first = 0
        for buffer in buffers:
            rows = slice(first, first + len(buffer.rewards))
            np.testing.assert_allclose(data.transitions.obs[rows], buffer.observations[:-1], atol=1e-6)
            np.testing.assert_allclose(data.transitions.next_obs[rows], buffer.observations[1:], atol=1e-6)
            np.testing.assert_allclose(data.transitions.act[rows], buffer.actions / 2, atol=1e-6)
            first = rows.stop
        assert data.transitions.terminal.nonzero().flatten().tolist() == [40]  # a fall is no timeout
        assert data.timeout.nonzero().flatten().tolist() == [19, 62]

    def test_the_environment_is_the_one_that_it_was_made_with(self, minari_dataset):
        name, _ = minari_dataset(options={"g": 2.5})
        assert make_env(MinariSource(name).task).unwrapped.g == 2.5
        assert make_env(MinariSource(name, env_id="Pendulum-v1").task).unwrapped.g == 10

    def test_it_runs(self, minari_dataset, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        name, _ = minari_dataset()
        source = f"{{class_path: dydiff.data.MinariSource, init_args: {{dataset: {name}}}}}"
        assert main([
            "fit", "--config", str(ROOT / "configs/demo.yaml"), "--data.init_args.source", source,
            "--rollout", "null", "--trainer.max_epochs=1",
            "--data.init_args.updates_per_epoch=50", "--trainer.enable_progress_bar=false"]) == 0  # fmt: skip

    def test_a_missing_dataset_is_one_line(self, minari_dataset, monkeypatch):
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        with pytest.raises(UserError, match="Minari cannot get 'nobody/nothing-v0'"):
            MinariSource("nobody/nothing-v0")


class SplitPendulum(PendulumEnv):
    """A pendulum whose states are a dictionary, its keys out of order."""

    def __init__(self, render_mode=None):
        super().__init__(render_mode)
        parts = {"speed": gym.spaces.Box(-8, 8, (1,)), "angle": gym.spaces.Box(-1, 1, (2,))}
        self.observation_space = gym.spaces.Dict(parts)

    def _get_obs(self):
        obs = super()._get_obs()
        return {"speed": obs[2:], "angle": obs[:2]}


def test_dictionary_states_lie_side_by_side(minari_dataset):
    gym.register("SplitPendulum-v0", f"{__name__}:SplitPendulum", max_episode_steps=200)
    name, buffers = minari_dataset("pendulum/split-v0", "SplitPendulum-v0")
    source = MinariSource(name)
    data = source.load().transitions
    assert source.task.obs_dim == 3
    obs, _ = make_env(source.task).reset(seed=0)  # the seed of the dataset's first episode
    np.testing.assert_allclose(data.obs[0].numpy(), obs, atol=1e-6)
    together = np.concatenate([buffers[0].observations["angle"], buffers[0].observations["speed"]], axis=1)
    np.testing.assert_allclose(data.obs[:20].numpy(), together[:20], atol=1e-6)
