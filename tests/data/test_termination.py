"""Termination rules against Gymnasium's environments, against recorded data, and however they are called."""

from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from tiny import write_dataset

from dydiff.data.checks import RULE_TOLERANCE, as_flags, check_rule
from dydiff.data.episodes import Transitions
from dydiff.data.gym_tasks import task_of
from dydiff.data.local import LocalSource
from dydiff.data.tasks import HALFCHEETAH, HOPPER
from dydiff.data.termination import ended, never, unknown
from dydiff.utils.errors import UserError

SHOWN = {"exclude_current_positions_from_observation": False}
ENDING = [
    *((f"{name}-{version}", {}) for version in ("v4", "v5") for name in (
        "Ant", "Humanoid", "Hopper", "Walker2d", "InvertedPendulum", "InvertedDoublePendulum")),
    ("Hopper-v5", {**SHOWN, "healthy_z_range": (0.3, 10.0)}),
    ("Hopper-v4", {"healthy_angle_range": (-0.1, 0.15), "healthy_state_range": (-5.0, 5.0)}),
    ("Walker2d-v5", {**SHOWN, "healthy_z_range": (0.9, 1.4), "healthy_angle_range": (-0.5, 0.4)}),
    ("Ant-v5", {**SHOWN, "healthy_z_range": (0.4, 0.8)}),
    ("Humanoid-v5", {**SHOWN, "healthy_z_range": (1.2, 1.5)}),
]  # fmt: skip
ENDLESS = [
    *((f"{name}-{version}", {}) for version in ("v4", "v5") for name in (
        "HalfCheetah", "Swimmer", "Reacher", "HumanoidStandup")),
    ("Pusher-v5", {}),
    ("Hopper-v5", {"terminate_when_unhealthy": False}),
    ("Walker2d-v4", {"terminate_when_unhealthy": False}),
]  # fmt: skip


def played(env_id, options, steps):
    """Transitions of random and of pushed actions, with the environment's own terminations."""
    env, random = gym.make(env_id, **options), np.random.default_rng(0)
    env.action_space.seed(0)
    obs, rows, scale = env.reset(seed=0)[0], [], 1.0
    for _ in range(steps):
        pushed = env.action_space.high * random.choice([-1.0, 1.0])
        act = np.float32(pushed if random.random() < 0.3 else env.action_space.sample() * scale)
        next_obs, reward, terminated, truncated, _ = env.step(act)
        rows.append((obs, act, reward, next_obs, terminated))
        obs = next_obs
        if terminated or truncated or random.random() < 0.005:
            obs, scale = env.reset()[0], random.choice([0.05, 0.3, 1.0])
    columns = [torch.from_numpy(np.array(column)) for column in zip(*rows, strict=True)]
    return Transitions(*(column.float() for column in columns[:4]), columns[4])


@pytest.mark.filterwarnings("ignore:.*out of date")
@pytest.mark.parametrize(("env_id", "options"), ENDING, ids=str)
def test_a_rule_is_the_environments(env_id, options):
    data = played(env_id, options, 1500 if env_id.startswith("Ant") else 600)
    task = task_of(env_id, env_options=options)
    assert torch.equal(ended(task.terminated, data.obs, data.act, data.next_obs), data.terminal)
    assert data.terminal.any() and not data.terminal.all()
    check_rule(task, data)


@pytest.mark.filterwarnings("ignore:.*out of date")
@pytest.mark.parametrize(("env_id", "options"), ENDLESS, ids=str)
def test_what_never_ends(env_id, options):
    assert task_of(env_id, env_options=options).terminated is never
    assert not played(env_id, options, 100).terminal.any()


def test_ant_ends_by_numbers_that_are_not_finite():
    task, obs = task_of("Ant-v5"), torch.zeros(4, 105)
    obs[:, 0] = torch.tensor([0.2, 1.0, 0.5, 0.5])  # both bounds are healthy
    obs[2, 20], obs[3, 20] = torch.nan, torch.inf
    assert ended(task.terminated, obs, torch.zeros(4, 8), obs).tolist() == [False, False, True, True]


def test_another_model_of_the_double_pendulum_has_no_known_rule(tmp_path):
    original = Path(gym.make("InvertedDoublePendulum-v5").unwrapped.fullpath)
    model = tmp_path / "longer.xml"
    model.write_text(original.read_text().replace("0 0 .6", "0 0 .9"))
    assert task_of("InvertedDoublePendulum-v5", env_options={"xml_file": str(model)}).terminated is unknown


class TestCalls:
    def test_a_rule_sees_rows_even_where_steps_and_states_are_as_many(self):
        """With L == O a rule of columns, called with [N, L, O], would judge a step and still give [N, L]."""
        next_obs = torch.randn(5, 4, 4, generator=torch.Generator().manual_seed(0))

        def high(obs, act, next_obs):
            assert next_obs.ndim == act.ndim == obs.ndim == 2
            return next_obs[:, 1] > 0

        given = ended(high, torch.zeros(5, 4, 4), torch.zeros(5, 4, 2), next_obs)
        assert torch.equal(given, next_obs[:, :, 1] > 0)
        assert not torch.equal(given, next_obs[:, 1] > 0)
        assert torch.equal(ended(high, torch.zeros(4), torch.zeros(2), next_obs[0, 0]), next_obs[0, 0, 1] > 0)

    @pytest.mark.parametrize(
        ("rule", "message"),
        [
            (lambda obs, act, next_obs: next_obs > 0, r"torch.bool and shape \[N\] = \(6,\), not torch.bool of shape"),
            (lambda obs, act, next_obs: next_obs[:, 0], "not torch.float32 of shape"),
            (lambda obs, act, next_obs: bool(next_obs.any()), "not bool"),
            (lambda obs, next_obs: next_obs[:, 0] > 0, "The termination rule fails: TypeError"),
        ],
    )
    def test_a_rule_that_gives_something_else_is_refused(self, rule, message):
        with pytest.raises(UserError, match=message):
            ended(rule, torch.zeros(2, 3, 4), torch.zeros(2, 3, 1), torch.zeros(2, 3, 4))


class TestAgainstData:
    @pytest.mark.parametrize("options", [SHOWN, {"terminate_when_unhealthy": False}, {"healthy_angle_range": (-2, 2)}])
    def test_options_that_the_id_does_not_tell(self, options):
        """The data of an environment with options, loaded as those of the plain one."""
        data = played("Hopper-v5", options, 300)
        data = data._replace(next_obs=data.next_obs[:, -12:][:, :11])  # as wide as the plain one's
        with pytest.raises(UserError, match=r"contradicts the data: of 300 transitions the rule ends [\d,]+, the data"):
            check_rule(task_of("Hopper-v5"), data)

    def test_an_unknown_rule_stops_where_there_are_terminals(self, tmp_path):
        """Until the user says that nothing ends; timeouts are no terminals."""
        path = str(write_dataset(tmp_path / "cheetah.hdf5"))
        data = LocalSource(path=path).load().transitions
        from_elsewhere = replace(task_of("Hopper-v5"), terminated=unknown)
        with pytest.raises(UserError, match="have 2 terminals, but no termination rule is known for Hopper-v5"):
            check_rule(from_elsewhere, data)
        check_rule(from_elsewhere, data._replace(terminal=torch.zeros_like(data.terminal)))
        endless = task_of("Hopper-v5", env_options={"terminate_when_unhealthy": False})
        with pytest.raises(UserError, match="the rule ends 0, the data end 2, and both end 0"):
            check_rule(endless, data)
        check_rule(task_of("Hopper-v5", terminated=never), data)
        assert LocalSource(path=path, terminated=never).load().transitions.terminal.sum() == 2
        assert not HALFCHEETAH.ignore_terminals

    def test_a_few_ends_may_differ_and_no_more(self):
        count = 1000
        next_obs = torch.full((count, 11), 0.0)
        next_obs[:, 0] = 1.25
        next_obs[:100, 0] = 0.5
        fell = next_obs[:, 0] < 0.7
        zeros = torch.zeros(count, 11)
        data = Transitions(zeros, zeros[:, :3], zeros[:, 0], next_obs, fell)
        few = int(RULE_TOLERANCE * 100)
        check_rule(HOPPER, data._replace(terminal=fell & (torch.arange(count) >= few)))
        with pytest.raises(UserError, match="the rule ends 100, the data end 94, and both end 94"):
            check_rule(HOPPER, data._replace(terminal=fell & (torch.arange(count) >= few + 1)))


class TestFlags:
    @pytest.mark.parametrize("value", [np.nan, -1, 0.5, 255])
    @pytest.mark.parametrize("name", ["terminals", "timeouts"])
    def test_flags_are_0_or_1(self, tmp_path, name, value):
        flags = np.zeros(48)
        flags[17] = value
        path = write_dataset(tmp_path / "flags.hdf5", **{name: flags})
        with pytest.raises(UserError, match=rf"'{name}' must be 0 or 1, but has [-\w.]+ in row 17"):
            LocalSource(path=str(path)).load()

    @pytest.mark.parametrize("kind", [bool, np.uint8, np.int64, np.float16, np.float64, ">f4"])
    def test_of_any_type(self, kind):
        flags = np.array([[0], [1], [0]], kind)
        assert as_flags(flags, "flags").dtype == bool and as_flags(flags, "flags").tolist() == [
            [False],
            [True],
            [False],
        ]
