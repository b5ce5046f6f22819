"""Minari datasets, recorded here: every transition, and the environment that they were recorded in."""

import pickle
from dataclasses import replace

import gymnasium as gym
import minari
import numpy as np
import pytest
import torch
from conftest import ROOT
from gymnasium import wrappers
from gymnasium.envs.classic_control import PendulumEnv
from minari.data_collector.episode_buffer import EpisodeBuffer

from dydiff.cli import main
from dydiff.data.minari import MinariSource
from dydiff.data.tasks import never
from dydiff.envs import make_env
from dydiff.envs.real_rollout import RecordedActions, real_rollout
from dydiff.envs.vectorized import SideBySide, together
from dydiff.utils.errors import UserError


@pytest.fixture
def minari_dataset(tmp_path, monkeypatch):
    """A local Minari dataset of pendulum episodes; returns its id and the episodes."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))

    def make(
        name="pendulum/random-v0", env_id="Pendulum-v1", terminate=(), options=None, wrap=None, scale=1.0, **metadata
    ):
        env, buffers = gym.make(env_id, **(options or {})), []
        env = env if wrap is None else wrap(env)
        env.action_space.seed(0)
        for episode in range(3):
            obs, _ = env.reset(seed=episode)
            states, actions, rewards = [obs], [], []
            for _ in range(20 + episode):
                actions.append(env.action_space.sample() * np.float32(scale))
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
        source = MinariSource(name, terminated=never)
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


def replayed(source, seed=0):
    """States and rewards of the first episode's actions, played in the source's task."""
    data, env = source.load(), make_env(pickle.loads(pickle.dumps(source.task)))
    states, rewards = [env.reset(seed=seed)[0]], []
    for act in data.transitions.act[: data.lengths[0]].numpy():
        obs, reward, *_ = env.step(act)
        states.append(obs)
        rewards.append(reward)
    return np.array(states), np.array(rewards), data.transitions


def twice(obs):
    return 2 * obs


class Unrecorded(gym.ObservationWrapper):
    """A wrapper that keeps no arguments for Gymnasium's specification."""

    def observation(self, observation):
        return observation


class TestRecordedEnvironment:
    @pytest.mark.parametrize(
        "wrap",
        [
            lambda env: env,
            lambda env: wrappers.RescaleAction(env, -1.0, 1.0),
            lambda env: wrappers.ClipReward(env, -1.0, 0.0),
            lambda env: wrappers.DelayObservation(env, 2),
            lambda env: wrappers.TimeLimit(wrappers.RescaleAction(env, -0.5, 0.5), 25),
        ],
        ids=["plain", "RescaleAction", "ClipReward", "DelayObservation", "TimeLimit"],
    )
    def test_recorded_actions_give_the_recorded_states_and_rewards(self, minari_dataset, wrap):
        name, buffers = minari_dataset(wrap=wrap)
        states, rewards, data = replayed(MinariSource(name))
        np.testing.assert_allclose(states, buffers[0].observations, atol=1e-4)
        np.testing.assert_allclose(rewards, buffers[0].rewards, atol=1e-4)
        assert 0.9 < data.act.abs().max() <= 1

    def test_the_step_limit_is_the_recorded_one(self, minari_dataset):
        name, _ = minari_dataset(options={"max_episode_steps": 30})
        task = MinariSource(name).task
        assert task.episode_limit == 30 and make_env(task).spec.max_episode_steps == 30
        name, _ = minari_dataset("pendulum/limit-v0", wrap=lambda env: wrappers.TimeLimit(env, 25))
        assert MinariSource(name).task.episode_limit == 25

    def test_the_environment_for_evaluation_is_played(self, minari_dataset):
        name, _ = minari_dataset(eval_env=gym.make("Pendulum-v1", g=3.0))
        assert make_env(MinariSource(name).task).unwrapped.g == 3.0

    def test_another_environment_for_evaluation_is_refused(self, minari_dataset):
        name, _ = minari_dataset(eval_env=gym.make("InvertedPendulum-v5"))
        with pytest.raises(UserError, match="states of 3 and actions of 1 numbers, InvertedPendulum-v5 has 4 and 1"):
            MinariSource(name)

    def test_wrapped_hoppers_are_not_simulated_without_their_wrappers(self, minari_dataset):
        name, _ = minari_dataset(
            "hopper/clipped-v0", "Hopper-v4", wrap=lambda env: wrappers.ClipReward(env, -0.1, 0.1), terminate=(0, 1, 2)
        )
        task = MinariSource(name).task
        episodes = together(lambda: make_env(task), [0, 1])
        assert isinstance(episodes, SideBySide)
        assert (np.abs(episodes.step(np.zeros((2, 3), np.float32), np.arange(2))[1]) <= 0.1).all()
        with pytest.raises(UserError, match="cannot be set to a given state: it is wrapped in ClipReward"):
            real_rollout(task, torch.zeros(1, 11), RecordedActions(torch.zeros(1, 1, 3)), 1)

    def test_what_cannot_be_recovered_is_refused(self, minari_dataset):
        name, _ = minari_dataset("pendulum/norm-v0", wrap=wrappers.NormalizeObservation)
        with pytest.raises(UserError, match="running mean and variance of NormalizeObservation"):
            MinariSource(name)
        name, _ = minari_dataset("pendulum/unrecorded-v0", wrap=Unrecorded)
        with pytest.raises(UserError, match="did not record the arguments of the wrapper Unrecorded"):
            MinariSource(name)

    def test_where_minari_keeps_no_specification_the_user_decides(self, minari_dataset, caplog):
        """It keeps none of a wrapper that takes a function."""
        caplog.set_level("INFO")
        name, _ = minari_dataset(wrap=lambda env: wrappers.TransformObservation(env, twice, env.observation_space))
        with pytest.raises(UserError, match="does not name its environment: set 'env_id'"):
            MinariSource(name)
        MinariSource(name, env_id="Pendulum-v1")
        assert "does not record its wrappers: evaluation is in plain Pendulum-v1." in caplog.text

    def test_an_environment_that_is_named_has_no_wrappers(self, minari_dataset, caplog):
        caplog.set_level("INFO")
        name, _ = minari_dataset(wrap=lambda env: wrappers.ClipReward(env, -1.0, 0.0), options={"g": 9.0})
        MinariSource(name, env_id="Pendulum-v1")
        assert "recorded with g, ClipReward: evaluation is in plain Pendulum-v1 without them" in caplog.text
        name, _ = minari_dataset("pendulum/unit-v0", wrap=lambda env: wrappers.RescaleAction(env, -1.0, 1.0))
        with pytest.raises(UserError, match=r"has actions from \[-1.0\] to \[1.0\], Pendulum-v1 from \[-2.0\]"):
            MinariSource(name, env_id="Pendulum-v1")


class TestRefused:
    def test_actions_beyond_the_bounds(self, minari_dataset):
        name, _ = minari_dataset(scale=2.0)
        with pytest.raises(UserError, match=r"actions reach .*, beyond the bounds of Pendulum-v1. Rescale them"):
            MinariSource(name).load()

    @pytest.mark.parametrize(
        "space",
        [
            gym.spaces.Discrete(3),
            gym.spaces.Text(8),
            gym.spaces.Tuple([gym.spaces.Box(-1, 1, (2,)), gym.spaces.Box(-1, 1, (1,))]),
            gym.spaces.Dict({"speed": gym.spaces.Box(-8, 8, (1,)), "word": gym.spaces.Text(8)}),
            gym.spaces.Dict({"speed": gym.spaces.Box(-8, 8, (1,)), "gear": gym.spaces.Discrete(4)}),
            gym.spaces.Box(0, 255, (8, 8), np.uint8),
        ],
        ids=lambda space: type(space).__name__,
    )
    def test_spaces_that_are_no_vectors(self, minari_dataset, monkeypatch, space):
        name, _ = minari_dataset()
        monkeypatch.setattr(minari.MinariDataset, "observation_space", space)
        with pytest.raises(UserError, match=f"The states of {name} are {type(space).__name__}.*, not vectors"):
            MinariSource(name)

    def test_an_episode_without_its_last_state(self, minari_dataset, monkeypatch):
        """As in the first version of Minari's AntMaze datasets."""
        name, _ = minari_dataset()
        iterate = minari.MinariDataset.iterate_episodes

        def cut(self):
            for episode in iterate(self):
                yield replace(episode, observations=episode.observations[:-1])

        monkeypatch.setattr(minari.MinariDataset, "iterate_episodes", cut)
        with pytest.raises(UserError, match="episode 0 has 20 states for 20 steps, not 21"):
            MinariSource(name).load()
