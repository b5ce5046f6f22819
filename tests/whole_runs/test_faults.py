"""What can go wrong, and what then becomes of a run."""

import os
import resource
import signal
import tempfile
from pathlib import Path

import faults
import pytest
import torch
import yaml
from tiny import QUIET, write_run, write_yaml
from whole_run import fit

from dydiff.agents.td3bc import TD3BC
from dydiff.cli import main
from dydiff.data.episodes import Trajectories
from dydiff.data.local import LocalSource
from dydiff.models.reward import RewardModel
from dydiff.rollout.autoregressive import Autoregressive
from dydiff.rollout.dydiff import DyDiff
from dydiff.run import checkpoint as run_checkpoint
from dydiff.run.folders import alone
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
        ("publishing a model", 2),
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
        (folder / "message").write_text(str(error))


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path):
    save({"state_dict": {"weight": torch.zeros(10)}}, tmp_path / "last.ckpt")
    faults.fork(_save_on_a_full_disk, tmp_path).join(60)
    assert "last.ckpt could not be written" in (tmp_path / "message").read_text()
    assert torch.equal(read_checkpoint(tmp_path / "last.ckpt")["state_dict"]["weight"], torch.zeros(10))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last.ckpt", "message"]


@pytest.mark.parametrize("agent", ["IQL", "ReBRAC", "EDAC"])
def test_a_killed_run_of_another_agent_ends_as_one_left_alone(tmp_path, agent):
    """IQL's learning rate depends on the number of updates, and the unit of its rewards on the dataset."""
    options = (f"--model=dydiff.agents.{agent}", "--model.hidden_sizes=[16,16]")
    for name in ("whole", "killed"):
        write_run(tmp_path / name)
    faults.finish(tmp_path / "whole", args=options)
    process = faults.start(tmp_path / "killed", "update chunk", 4, args=options)
    process.join(120)
    assert process.exitcode == -9, "it was not killed"
    faults.finish(tmp_path / "killed", args=options)
    outcomes = [faults.outcome(tmp_path / name) for name in ("whole", "killed")]
    assert list(faults.differences(*outcomes)) == []


@pytest.mark.parametrize("agent", ["td3bc.TD3BC", "cql.CQL", "diffql.DiffQL"])
def test_two_whole_runs_are_equal_to_the_bit(tmp_path, agent):
    """Models, agent, optimizers, synthetic buffer and metrics; another seed gives others."""
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


def metrics():
    return faults.outcome(Path("."))["metrics"]


def spoil(monkeypatch, change):
    """Let every second trajectory of a rollout come out changed."""
    real = Autoregressive.finish

    def finish(self, *args):
        made, metrics = real(self, *args)
        obs = made.obs.clone()
        obs[::2, 1] = change(obs[::2, 1])
        return made._replace(obs=obs, next_obs=obs[:, 1:]), metrics

    monkeypatch.setattr(Autoregressive, "finish", finish)


def test_trajectories_that_are_not_finite_never_enter_the_buffer(place, monkeypatch):
    spoil(monkeypatch, lambda obs: obs * float("nan"))
    real = DyDiff.synthesize

    def synthesize(self, *args):
        made, metrics = real(self, *args)
        return made, {name: torch.where(made.finite, 3.0, float("nan")) for name in metrics}

    monkeypatch.setattr(DyDiff, "synthesize", synthesize)
    assert fit("--trainer.max_epochs=1") == 0
    assert metrics()["rollout/non_finite"] == {0: 13}  # of chunks of 10, 10 and 5
    assert metrics()["rollout/state_change_1"] == {0: 3.0}  # of those that are kept
    buffer = faults.outcome(Path("."))["MixedDataModule"]["synthetic"]
    assert all(value.isfinite().all() for key, value in buffer.items() if key != "next")


def test_a_rollout_without_a_finite_trajectory_ends_the_run(place, monkeypatch, capsys):
    def finish(self, policy, obs, act, generator):
        return Trajectories.cut(obs * float("nan"), act, act[..., 0], act[..., 0] > 2), {}

    monkeypatch.setattr(Autoregressive, "finish", finish)
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


def _files():
    return sorted(str(path) for path in Path(".").rglob("*"))


@pytest.mark.parametrize("models", ["untrained", "trained"])
def test_fast_dev_run_leaves_nothing_and_blocks_nothing(place, capsys, models):
    command = ["fit", "--config", "run.yaml", *QUIET]
    if models == "trained":
        assert main([*command, "--trainer.max_epochs=1", "--name=other"]) == 0
    before = _files()
    temporary = set(Path(tempfile.gettempdir()).glob("dydiff-*"))
    assert main([*command, "--trainer.fast_dev_run=true"]) == 0
    said = capsys.readouterr().out
    assert "nothing is kept" in said and (said.count("reuse") == (3 if models == "trained" else 0))
    source = ["--data.source", "dydiff.data.LocalSource", "--data.source.path", "hopper.hdf5"]
    assert main(["fit", "--config", "pretrain/rew.yaml", *source, *QUIET, "--trainer.fast_dev_run=2"]) == 0
    assert _files() == before
    assert set(Path(tempfile.gettempdir()).glob("dydiff-*")) == temporary
    if models == "untrained":
        assert main([*command, "--ckpt_path=last", "--trainer.max_epochs=1"]) == 0
        assert Path("runs/run/version_0/checkpoints/last.ckpt").is_file()


def test_a_run_that_another_process_trains_is_not_resumed(place, capsys):
    """Until that process ends, however it ends."""
    command = ["fit", "--config", "run.yaml", *QUIET, "--rollout=null"]
    assert main([*command, "--trainer.max_epochs=1"]) == 0
    resuming = faults.start(place, "evaluation", 1, args=["--rollout=null", "--trainer.max_epochs=20"])
    resuming.join(120)
    assert resuming.exitcode == -9
    with alone(Path("runs/run/version_0"), seconds=0):  # the dead process has released it
        assert main([*command, "--trainer.max_epochs=2", "--ckpt_path=last"]) == 2
        error = capsys.readouterr().err
        assert "Another process trains in runs/run/version_0" in error and error.count("\n") == 1
    assert main([*command, "--trainer.max_epochs=2", "--ckpt_path=last"]) == 0


def test_a_resumed_run_holds_its_folder_before_it_trains_models(place, monkeypatch):
    """And before it reads the checkpoint, which the other process may still replace."""
    assert main(["fit", "--config", "run.yaml", *QUIET, "--rollout=null", "--trainer.max_epochs=1"]) == 0
    read, checkpoint = [], Path("runs/run/version_0/checkpoints/last.ckpt")

    def reading(path):
        with pytest.raises(UserError, match="Another process trains in"), alone(Path("runs/run/version_0"), seconds=0):
            pass
        read.append(path)
        return read_checkpoint(path)

    monkeypatch.setattr(run_checkpoint, "read_checkpoint", reading)
    options = ["--rollout=null", "--trainer.max_epochs=2", "--ckpt_path=last"]
    assert main(["fit", "--config", "run.yaml", *QUIET, *options]) == 0
    assert read == [checkpoint]


def test_a_running_fit_holds_its_folder(place, monkeypatch):
    """A new run and a resumed one."""
    held = []

    def on_train_end(agent):
        with pytest.raises(UserError, match="Another process trains in"), alone(Path(agent.trainer.log_dir), seconds=0):
            pass
        held.append(agent.trainer.log_dir)

    monkeypatch.setattr(TD3BC, "on_train_end", on_train_end)
    for options in ([], ["--ckpt_path=last", "--trainer.max_epochs=4"]):
        assert main(["fit", "--config", "run.yaml", *QUIET, "--rollout=null", *options]) == 0
    assert held == [str(Path("runs/run/version_0"))] * 2


def test_a_run_with_csv_alone_names_its_own_files(place, capsys):
    command = ["fit", "--config", "run.yaml", *QUIET, "--rollout=null", "--trainer.max_epochs=1"]
    assert main([*command, "--trainer.logger=CSVLogger"]) == 0
    said = capsys.readouterr().out
    assert "runs/run/version_0/metrics.csv" in said and "tensorboard" not in said
    assert Path("runs/run/version_0/metrics.csv").is_file()
    assert main(command) == 0
    assert "tensorboard --logdir runs/run/version_1" in capsys.readouterr().out


class NaNOverHoldout(RewardModel):
    """A model whose error over the holdout cannot be computed."""

    def holdout_metrics(self, batch):
        return {"loss": torch.tensor(float("nan"))}


def test_a_model_whose_holdout_loss_is_never_finite_is_not_published(place, capsys):
    """pytorch-lightning #2636: its checkpoint callback keeps NaN as infinity."""
    denoiser = yaml.safe_load(Path("pretrain/den.yaml").read_text())
    reward = yaml.safe_load(Path("pretrain/rew.yaml").read_text())
    reward["model"]["class_path"] = "test_faults.NaNOverHoldout"
    reward["trainer"]["callbacks"] = denoiser["trainer"]["callbacks"]
    write_yaml(Path("pretrain/nan.yaml"), reward)
    source = ["--data.source", "dydiff.data.LocalSource", "--data.source.path", "hopper.hdf5"]
    assert main(["fit", "--config", "pretrain/nan.yaml", *source, *QUIET, "--trainer.max_epochs=2"]) == 2
    assert "'holdout/loss' never was a finite number" in capsys.readouterr().err
    assert not list(Path("runs").rglob("weights.pt"))


def _interrupt(agent, *args):
    os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("moment", ["training_step", "validation_step", "check"])
def test_an_interrupted_run_says_how_to_resume(place, capsys, monkeypatch, moment):
    """pytorch-lightning #19916 and #11924: Ctrl+C in a step, in an evaluation, before the training."""
    monkeypatch.setattr(TD3BC, moment, _interrupt)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore the signal
    try:
        assert main(["fit", "--config", "run.yaml", *QUIET, "--rollout", "null"]) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().err.splitlines()[-1] == "error: Interrupted. Resume with --ckpt_path last."
