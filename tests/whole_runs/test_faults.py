"""What can go wrong, and what then becomes of a run."""

import resource
import signal
from pathlib import Path

import faults
import pytest
import torch
import yaml
from tiny import QUIET, write_run, write_yaml

from dydiff.cli import main
from dydiff.data.episodes import Trajectories
from dydiff.data.local import LocalSource
from dydiff.rollout.autoregressive import Autoregressive
from dydiff.rollout.dydiff import DyDiff
from dydiff.utils.checkpoints import read_checkpoint, save
from dydiff.utils.errors import UserError


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What a run leaves that nobody kills."""
    folder = tmp_path_factory.mktemp("whole")
    write_run(folder)
    faults.finish(folder)
    return faults.outcome(folder)


@pytest.mark.parametrize(
    ("moment", "count"),
    [
        ("pretraining step", 8),
        ("holdout evaluation", 3),
        ("publishing a part", 2),
        ("between two stages", 1),
        ("rollout", 4),
        ("update chunk", 4),
        ("evaluation", 2),
        ("checkpoint half written", 3),
        ("checkpoint half written", 12),
        ("checkpoint written", 9),
    ],
)
def test_a_killed_run_ends_as_one_left_alone(whole, tmp_path, moment, count):
    write_run(tmp_path)
    process = faults.start(tmp_path, moment, count)
    process.join(120)
    assert process.exitcode == -9, "it was not killed"
    faults.finish(tmp_path)
    assert list(faults.differences(whole, faults.outcome(tmp_path))) == []


def _save_on_a_full_disk(folder):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
    try:
        save({"state_dict": {"weight": torch.ones(100_000)}}, folder / "last.ckpt")
    except UserError as error:
        (folder / "told").write_text(str(error))


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path):
    save({"state_dict": {"weight": torch.zeros(10)}}, tmp_path / "last.ckpt")
    faults.fork(_save_on_a_full_disk, tmp_path).join(60)
    assert "last.ckpt could not be written" in (tmp_path / "told").read_text()
    assert torch.equal(read_checkpoint(tmp_path / "last.ckpt")["state_dict"]["weight"], torch.zeros(10))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last.ckpt", "told"]


@pytest.mark.parametrize("agent", ["td3bc.TD3BC", "cql.CQL", "diffql.DiffQL"])
def test_two_whole_runs_are_equal_to_the_bit(tmp_path, agent):
    """Parts, agent, optimizers, synthetic buffer and metrics; another seed gives others."""
    for name, seed in (("one", 5), ("other", 5), ("different", 6)):
        write_run(tmp_path / name)
        options = (f"--model=dydiff.agents.{agent}", f"--seed_everything={seed}", "--trainer.max_epochs=2")
        faults.finish(tmp_path / name, args=options)
    one, other, different = (faults.outcome(tmp_path / name) for name in ("one", "other", "different"))
    assert list(faults.differences(one, other)) == []
    assert list(faults.differences(one["state_dict"], different["state_dict"]))


def rollout_settings(**settings):
    path = Path("rollout.yaml")
    content = yaml.safe_load(path.read_text())
    content["init_args"] |= settings
    path.write_text(yaml.safe_dump(content))


def fit(*options):
    return main(["fit", "--config", "run.yaml", *QUIET, *options])


def metrics():
    return faults.outcome(Path("."))["metrics"]


def spoil(monkeypatch, change):
    """Let every second trajectory of a rollout come out changed."""
    real = Autoregressive.finish

    def finish(self, *args):
        made = real(self, *args)
        obs = made.obs.clone()
        obs[::2, 1] = change(obs[::2, 1])
        return made._replace(obs=obs, next_obs=obs[:, 1:])

    monkeypatch.setattr(Autoregressive, "finish", finish)


def test_trajectories_that_are_not_finite_never_enter_the_buffer(place, monkeypatch):
    spoil(monkeypatch, lambda obs: obs * float("nan"))
    real = DyDiff.synthesize

    def synthesize(self, *args):
        made, figures = real(self, *args)
        return made, {name: torch.where(made.finite, 3.0, float("nan")) for name in figures}

    monkeypatch.setattr(DyDiff, "synthesize", synthesize)
    assert fit("--trainer.max_epochs=1") == 0
    assert metrics()["rollout/non_finite"] == {0: 13}  # of chunks of 10, 10 and 5
    assert metrics()["rollout/state_change_1"] == {0: 3.0}  # of those that are kept
    buffer = faults.outcome(Path("."))["MixedDataModule"]["synthetic"]
    assert all(value.isfinite().all() for key, value in buffer.items() if key != "next")


def test_a_rollout_without_a_finite_trajectory_ends_the_run(place, monkeypatch, capsys):
    monkeypatch.setattr(Autoregressive, "finish", lambda self, policy, obs, act, generator: Trajectories.cut(
        obs * float("nan"), act, act[..., 0], act[..., 0] > 2))  # fmt: skip
    assert fit() == 2
    assert "error: No synthetic trajectory can be used: 25 of 25 are not finite" in capsys.readouterr().err


def test_trajectories_far_outside_of_the_data_are_counted_and_dropped(place, monkeypatch):
    spoil(monkeypatch, lambda obs: 1e6 + 0 * obs)
    rollout_settings(max_range_excess=1000.0)
    assert fit("--trainer.max_epochs=1") == 0
    logged = metrics()
    assert logged["rollout/out_of_range"] == {0: 13}
    assert logged["rollout/non_finite"] == {0: 0}
    obs = LocalSource(path="hopper.hdf5").load().transitions.obs
    low, high = obs.amin(0), obs.amax(0)
    expected = float(((1e6 - high) / (high - low)).max())
    assert logged["rollout/range_excess_max"][0] == pytest.approx(expected, rel=1e-4)
    buffer = faults.outcome(Path("."))["MixedDataModule"]["synthetic"]
    assert buffer["next_obs"].abs().max() < 1e6


def test_values_that_no_reward_explains_end_the_run(place, capsys):
    run = yaml.safe_load(Path("run.yaml").read_text())
    watch = {"class_path": "callbacks.QValueWatch", "init_args": {"max_ratio": 0.001}}
    run["trainer"]["callbacks"].append(watch)
    write_yaml(Path("run.yaml"), run)
    assert fit() == 2
    assert "error: After 3 updates a Q target is" in capsys.readouterr().err
    watch["init_args"]["max_ratio"] = None
    write_yaml(Path("run.yaml"), run)
    assert fit("--name=watched", "--rollout=null") == 0
    (log,) = Path("runs/watched").iterdir()
    logged = faults.scalars(log)
    largest = LocalSource(path="hopper.hdf5").load().transitions.reward.abs().max() / (1 - 0.99)
    for step, ratio in logged["train/q_bound_ratio"].items():
        assert ratio == pytest.approx(logged["train/target_q_max"][step] / float(largest), rel=1e-5)
