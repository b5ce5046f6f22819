"""The real environments against MuJoCo 2's numbers, their own termination, and scoring by hand."""

from dataclasses import replace
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
import torch
from conftest import ROOT

from dydiff.data.gym_tasks import task_of
from dydiff.data.local import LocalSource
from dydiff.data.tasks import HALFCHEETAH, HOPPER, TASKS, WALKER2D
from dydiff.envs import make_env
from dydiff.envs.play import NormalizedScore, play_episodes
from dydiff.envs.real_rollout import RecordedActions, real_rollout
from dydiff.envs.vectorized import SideBySide, Simulation, together
from dydiff.utils.errors import UserError

EVERY_TASK = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
PENDULUM = task_of("InvertedPendulum-v4")  # its actions reach 3
LOCOMOTION = (HOPPER, HALFCHEETAH, WALKER2D)


@pytest.mark.parametrize("task", LOCOMOTION, ids=lambda task: task.name)
def test_one_step_equals_mujoco_2(golden, task):
    physics = golden("mujoco2_physics")
    env = make_env(task).unwrapped
    env.reset(seed=0)
    nq = env.model.nq
    worst = 0.0
    for state, action, expected in zip(
        *(physics[f"{task.name}/{key}"].numpy() for key in ("state", "action", "next_state")), strict=True
    ):
        env.data.qacc_warmstart[:] = 0
        env.set_state(state[:nq], state[nq:])
        env.do_simulation(action, env.frame_skip)
        worst = max(worst, np.abs(np.concatenate([env.data.qpos, env.data.qvel]) - expected).max())
    assert worst < 1e-6


def test_stock_contacts_are_left_alone_when_asked():
    from dataclasses import replace

    stock, restored = (make_env(replace(HOPPER, mujoco2_contacts=on)).unwrapped.model for on in (False, True))
    np.testing.assert_allclose(restored.geom_margin * 2, stock.geom_margin)


@EVERY_TASK
def test_task_table_agrees_with_the_environment(task):
    env = make_env(task)
    assert env.observation_space.shape == (task.obs_dim,) and env.action_space.shape == (task.act_dim,)
    assert env.spec.max_episode_steps == task.episode_limit
    env.action_space.seed(0)
    obs, _ = env.reset(seed=0)
    for _ in range(300):
        action = env.action_space.sample()
        next_obs, _, terminated, _, _ = env.step(action)
        says = task.terminated(*(torch.tensor(x, dtype=torch.float32) for x in (obs, action, next_obs)))
        assert bool(says) == terminated
        obs = env.reset()[0] if terminated else next_obs


@pytest.mark.parametrize(
    ("task", "change", "terminal"),
    [
        (HOPPER, {0: 0.7}, True), (HOPPER, {0: 0.701}, False), (HOPPER, {1: 0.2}, True), (HOPPER, {1: -0.2}, True),
        (HOPPER, {1: 0.199}, False), (HOPPER, {4: -100.0}, True), (HOPPER, {4: 100.0}, True),
        (HOPPER, {4: -99.0}, False),         (HOPPER, {7: float("nan")}, True),
        (WALKER2D, {0: 0.8}, True), (WALKER2D, {0: 2.0}, True),
        (WALKER2D, {1: 1.0}, True), (WALKER2D, {1: -0.99}, False), (HALFCHEETAH, {0: -5.0}, False),
    ],
)  # fmt: skip
def test_termination_at_its_bounds(task, change, terminal):
    next_obs = torch.zeros(task.obs_dim)
    next_obs[0] = 1.25
    for index, value in change.items():
        next_obs[index] = value
    assert bool(task.terminated(next_obs, torch.zeros(task.act_dim), next_obs)) is terminal


@pytest.mark.parametrize("task", [HOPPER, WALKER2D], ids=lambda task: task.name)
def test_termination_around_its_bounds_is_the_environments(task):
    """States within a hundredth of every bound, judged by the rule and by the environment itself."""
    simulator, random = make_env(task).unwrapped, np.random.default_rng(0)
    simulator.reset(seed=0)
    heights, angles = {"hopper": ((0.7,), (-0.2, 0.2)), "walker2d": ((0.8, 2.0), (-1.0, 1.0))}[task.name]
    seen = set()
    for _ in range(600):
        qpos, qvel = random.normal(size=simulator.model.nq) * 0.1, random.normal(size=simulator.model.nv) * 3
        qpos[1] = random.choice([*heights, 1.2]) + random.uniform(-0.01, 0.01)
        qpos[2] = random.choice([*angles, 0.0]) + random.uniform(-0.01, 0.01)
        simulator.set_state(qpos, qvel)
        obs = torch.from_numpy(simulator._get_obs())
        fell = bool(task.terminated(obs, torch.zeros(task.act_dim), obs))
        assert fell == (not simulator.is_healthy)
        seen.add(fell)
    assert seen == {True, False}


def test_termination_of_recorded_states():
    """Each of the 59,312 flags of the dataset that ships with the repository."""
    data = LocalSource(path=str(ROOT / "data/hopper-zoo-replay-small.hdf5")).load().transitions
    assert torch.equal(HOPPER.terminated(data.obs, data.act, data.next_obs), data.terminal)
    assert 100 < data.terminal.sum() < len(data.terminal)


def test_actions_are_clipped():
    """Gymnasium's v4 environments charge for the raw action; D4RL's clipped it."""
    rewards = []
    for size in (1.0, 30.0):
        env = make_env(HALFCHEETAH)
        env.reset(seed=0)
        rewards.append(env.step(np.full(6, size, np.float32))[1])
    assert rewards[0] == rewards[1]


def test_episodes_played_together_equal_episodes_played_alone():
    torch.manual_seed(0)
    weights = torch.randn(11, 3)

    def policy(obs):
        return torch.tanh(obs @ weights)

    seeds = [3, 4, 5, 6]
    played = play_episodes(policy, partial(make_env, HOPPER), seeds)
    for index, seed in enumerate(seeds):
        env = make_env(HOPPER)
        obs, total, length, over = env.reset(seed=seed)[0], 0.0, 0, False
        while not over:
            act = policy(torch.as_tensor(obs, dtype=torch.float32)[None])[0].numpy()
            obs, reward, terminated, truncated, _ = env.step(act)
            total, length, over = total + reward, length + 1, terminated or truncated
        assert played[0][index].item() == pytest.approx(total, rel=1e-4)
        assert played[1][index] == length
    assert len(set(played[0].tolist())) == len(seeds)


@pytest.mark.parametrize("name", ["hopper", "walker2d", "halfcheetah", "maze2d-umaze", "maze2d-medium-dense"])
@pytest.mark.parametrize("mujoco2_contacts", [True, False])
def test_a_simulation_equals_the_environment_to_the_bit(name, mujoco2_contacts):
    """States, rewards and ends; random actions, some beyond the bounds."""
    task = replace(TASKS[name], mujoco2_contacts=mujoco2_contacts)
    make, seeds, random = partial(make_env, task), [7, 8, 9], np.random.default_rng(0)
    simulated, separate = together(make, seeds), SideBySide([make() for _ in seeds], seeds)
    assert isinstance(simulated, Simulation)
    np.testing.assert_array_equal(simulated.obs, separate.obs)
    running, steps = np.arange(3), 0
    while len(running) and steps < 1000:
        act = random.uniform(-1.2, 1.2, (len(running), task.act_dim)).astype(np.float32)
        ours, theirs = simulated.step(act, running), separate.step(act, running)
        for one, other in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(one, other)
        running, steps = running[~ours[2]], steps + 1
    assert len(running) == 0  # they fell, or reached the limit


def test_an_environment_that_nobody_simulates_steps_side_by_side():
    standing = replace(HOPPER, env_options={"terminate_when_unhealthy": False})
    assert isinstance(together(partial(make_env, standing), [0, 1]), SideBySide)
    assert isinstance(together(lambda: gym.make("Pendulum-v1"), [0, 1]), SideBySide)
    scaled = gym.wrappers.TransformReward(make_env(HOPPER), lambda reward: 2 * reward)
    assert isinstance(together(lambda: scaled, [0]), SideBySide)


def test_normalized_score_is_d4rls():
    metric = NormalizedScore(HOPPER.score_min, HOPPER.score_max)
    metric.update(torch.tensor([HOPPER.score_min, HOPPER.score_max]), torch.tensor([10, 1000]))
    metric.update(torch.tensor([1000.0]), torch.tensor([500]))
    third = 100 * (1000 + 20.272305) / (3234.3 + 20.272305)
    scores = metric.compute()
    assert scores["score"].item() == pytest.approx((0 + 100 + third) / 3)
    assert scores["score_std"].item() == pytest.approx(np.std([0, 100, third]), rel=1e-5)
    assert scores["length"].item() == pytest.approx(1510 / 3)


@pytest.mark.parametrize("task", [*TASKS.values(), PENDULUM], ids=[*TASKS, "pendulum"])
def test_replay_is_the_environment(task):
    """States restored from observations, and recorded actions, give the recorded states again."""
    env = make_env(task)
    env.action_space.seed(1)
    obs, states, actions = env.reset(seed=1)[0], [], []
    for _ in range(12):
        states.append(obs)
        actions.append(env.action_space.sample() * 0.3)
        obs = env.step(actions[-1])[0]
    states, actions = (torch.tensor(np.array(values), dtype=torch.float32) for values in ([*states, obs], actions))
    twice = RecordedActions(actions[None].repeat(2, 1, 1))  # two worlds at once must not touch each other
    again, _, valid = real_rollout(task, states[:1].repeat(2, 1), twice, 12)
    assert torch.equal(again[0], again[1])
    torch.testing.assert_close(again[0], states, atol=2e-3, rtol=1e-3)
    assert valid.any()


def test_an_environment_that_hides_its_state_is_refused():
    task = task_of("Reacher-v4")
    with pytest.raises(UserError, match="Reacher-v4 cannot be set to a given state: it shows more than"):
        real_rollout(task, torch.zeros(1, task.obs_dim), RecordedActions(torch.zeros(1, 1, task.act_dim)), 1)
