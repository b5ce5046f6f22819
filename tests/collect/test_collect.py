"""Datasets made on the spot."""

import h5py
import numpy as np
import pytest
import torch

from dydiff.cli import main
from dydiff.collect.locomotion import collect_locomotion
from dydiff.collect.maze2d import collect_maze2d
from dydiff.collect.waypoints import WaypointController
from dydiff.data.local import LocalSource
from dydiff.data.tasks import TASKS
from dydiff.envs.maze2d import MAZES
from dydiff.envs.real_rollout import RecordedActions, real_rollout
from dydiff.utils.errors import UserError

# Figures of D4RL's published files: mean steps of a walk, share of actions at a bound, share of steps at the goal,
# smallest and largest position.
PUBLISHED = {
    "umaze": (81, 0.32, 0.085, (0.39, 0.63), (3.22, 3.22)),
    "medium": (170, 0.32, 0.027, (0.61, 0.45), (6.22, 6.22)),
}


@pytest.mark.parametrize("maze", MAZES)
def test_the_controller_is_d4rls(golden, maze):
    """1,200 steps of D4RL's own controller, its random numbers handed in."""
    g = {key.removeprefix(f"{maze}/"): value.numpy() for key, value in golden("waypoint_controller").items()}
    noise = iter(g["noise"])
    controller = WaypointController(maze, lambda: next(noise))
    steps = zip(g["position"], g["velocity"], g["target"], g["action"], g["solved"], strict=False)
    for position, velocity, target, action, solved in steps:
        ours, reached = controller(position, velocity, target)
        np.testing.assert_allclose(ours, action, atol=1e-9)
        assert reached == solved
    assert next(noise, None) is None


@pytest.mark.parametrize("maze", PUBLISHED)
def test_a_collected_maze_has_the_figures_of_the_published_one(maze, tmp_path):
    path = collect_maze2d(maze, num_transitions=40_000, out=str(tmp_path / "maze.hdf5"), progress=False)
    walk, at_bound, at_goal, low, high = PUBLISHED[maze]
    with h5py.File(path) as file:
        observations, actions = file["observations"][()], file["actions"][()]
        assert 1 / file["timeouts"][()].mean() == pytest.approx(walk, rel=0.1)
        assert (np.abs(actions) == 1).mean() == pytest.approx(at_bound, abs=0.02)
        assert file["rewards"][()].mean() == pytest.approx(at_goal, abs=0.03)
        assert np.abs(observations[:, 2:]).max() == pytest.approx(5.2262554, abs=1e-5)
        assert (observations[:, :2].min(0) > np.array(low) - 0.05).all()
        assert (observations[:, :2].max(0) < np.array(high) + 0.05).all()
        assert "not D4RL's file" in file.attrs["recipe"]


def test_a_collected_maze_loads_and_its_steps_are_the_environments(tmp_path):
    path = collect_maze2d("umaze", num_transitions=3000, out=str(tmp_path / "maze.hdf5"), progress=False)
    source = LocalSource(path=str(path))
    assert source.task.name == "maze2d-umaze"
    data = source.load().transitions
    assert torch.equal(data.next_obs[:-1], data.obs[1:]) and not data.terminal.any()
    some = data.at(torch.arange(0, 3000, 7))
    truth = real_rollout(TASKS["maze2d-umaze"], some.obs, RecordedActions(some.act[:, None]), 1)[0][:, 1]
    assert (truth - some.next_obs).abs().quantile(0.99) < 1e-3  # in contacts float32 states differ a little
    goal = torch.linalg.vector_norm(data.obs[:, :2] - 1.0, dim=1) <= 0.5
    assert torch.equal(data.reward, goal.float())


def test_collecting_follows_the_seed(tmp_path):
    files = [
        collect_maze2d("large", num_transitions=500, seed=seed, out=str(tmp_path / f"{run}.hdf5"), progress=False)
        for run, seed in enumerate((1, 1, 2))
    ]
    first, again, other = (LocalSource(path=str(path)).load().fingerprint for path in files)
    assert first == again != other


def test_collect_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["collect", "maze2d", "--maze", "umaze", "--num_transitions", "2000", "--dense", "true"]) == 0
    assert "maze2d-umaze-dense-waypoint-2k.hdf5" in capsys.readouterr().out
    rewards = LocalSource(path="maze2d-umaze-dense-waypoint-2k.hdf5").load().transitions.reward
    assert 0 < rewards.min() < rewards.max() <= 1
    for wrong, message in (
        (["maze2d", "--maze", "umace"], "Unknown maze 'umace'. Did you mean umaze"),
        (["maze3d"], "Did you mean maze2d"),
        (["maze2d", "--num_transitions", "0"], "num_transitions must be at least 1"),
        ([], "collect what? locomotion or maze2d."),
    ):
        assert main(["collect", *wrong]) == 2
        assert message in capsys.readouterr().err
    assert len(list(tmp_path.iterdir())) == 1


# Scores that every agent reaches, also one of a few hundred steps.
QUICK = {"task": "hopper", "check_every": 150, "medium_score": -50.0, "expert_score": -40.0, "num_transitions": 400}


class TestLocomotion:
    @pytest.fixture(autouse=True)
    def _here(self, tmp_path, monkeypatch):
        pytest.importorskip("stable_baselines3")
        monkeypatch.chdir(tmp_path)

    def load(self, path):
        source = LocalSource(path=str(path))
        assert source.task == TASKS["hopper"]
        return source.load()

    def test_every_kind(self):
        replay = self.load(collect_locomotion(dataset="medium-replay", **QUICK))
        assert len(replay) == 150
        data = replay.transitions
        assert torch.equal(data.terminal, TASKS["hopper"].terminated(data.obs, data.act, data.next_obs))
        mixed = self.load(collect_locomotion(dataset="medium-expert", **QUICK))
        medium = self.load(collect_locomotion(dataset="medium", **QUICK))
        assert len(mixed) == len(medium) == 400
        assert torch.equal(mixed.transitions.obs[:20], medium.transitions.obs[:20])  # the same agent, first
        with h5py.File("hopper-sac-medium-replay-seed0.hdf5") as file:
            assert "SAC, seed 0" in file.attrs["recipe"] and "not D4RL's file" in file.attrs["recipe"]

    def test_an_interrupted_training_goes_on(self):
        with pytest.raises(UserError, match="After 300 steps the best score"):
            collect_locomotion(**{**QUICK, "medium_score": 500.0}, max_steps=300)
        state = torch.load("runs/collect/hopper-sac-seed0/training.pt", weights_only=True)
        assert state["steps"] == 300 and len(state["scores"]) == 2
        with pytest.raises(UserError, match="After 600 steps"):
            collect_locomotion(**{**QUICK, "medium_score": 500.0}, max_steps=600)
        again = torch.load("runs/collect/hopper-sac-seed0/training.pt", weights_only=True)
        assert again["scores"][:2] == state["scores"] and len(again["scores"]) == 4
        for name, values in state["replay"].items():
            same = values.ndim > 1 and name not in ("dones", "timeouts")
            assert torch.equal(again["replay"][name][: 299 if not same else 300], values[: 299 if not same else 300])
        ends = again["replay"]["timeouts"][:, 0].nonzero().flatten().tolist()
        assert 299 in ends  # the episode that ran when it was interrupted

    def test_the_last_steps_are_as_many_as_are_left(self):
        with pytest.raises(UserError, match="After 250 steps"):
            collect_locomotion(**{**QUICK, "medium_score": 500.0}, max_steps=250)
        collected = self.load(collect_locomotion(**{**QUICK, "medium_score": -500.0}, max_steps=250))
        assert len(collected) == 150  # the first evaluation reaches it
        state = torch.load("runs/collect/hopper-sac-seed0/training.pt", weights_only=True)
        assert state["steps"] == 250 == len(state["replay"]["rewards"])

    def test_the_seed_decides(self):
        first = self.load(collect_locomotion(**QUICK))
        again = self.load(collect_locomotion(**QUICK, work_dir="elsewhere"))
        other = self.load(collect_locomotion(**QUICK, seed=1))
        assert first.fingerprint == again.fingerprint != other.fingerprint
