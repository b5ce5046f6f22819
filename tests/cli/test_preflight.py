"""Settings that Lightning would refuse late or with a traceback: one line, exit code 2, and nothing is left behind."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
import yaml
from jsonargparse import Namespace
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny import QUIET, write_yaml

from dydiff.agents.evaluation import SCORES
from dydiff.agents.td3bc import TD3BC
from dydiff.cli import main, preflight
from dydiff.cli.parser import user_error
from dydiff.data.local import LocalSource
from dydiff.envs.play import NormalizedScore
from dydiff.models.dynamics import DynamicsEnsemble
from dydiff.models.reward import RewardModel
from dydiff.utils.console import pip_install
from dydiff.utils.errors import UserError

SOURCE = ("--data.source", "dydiff.data.LocalSource", "--data.source.path", "hopper.hdf5")


class Logging(TD3BC):
    """An agent from elsewhere, which may log what it likes."""


class Broken(TD3BC):
    """An agent whose author made a mistake."""

    def __init__(self, obs_dim: int, act_dim: int):
        super().__init__(obs_dim, act_dim)
        torch.ones(2) @ torch.ones(3)


def stopping(monitor):
    return f"--trainer.callbacks+={{class_path: EarlyStopping, init_args: {{monitor: {monitor}}}}}"


def best(monitor):
    return f"--trainer.callbacks+={{class_path: ModelCheckpoint, init_args: {{monitor: {monitor}}}}}"


def error_of(capsys, *args):
    """What a command says, which must be one line of one kind, after which nothing is there."""
    assert main([*args, *QUIET]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert not [path for path in Path("runs").rglob("*") if path.is_file() and not path.name.startswith(".")]
    assert not list(Path("runs").glob("*/version_*"))
    return error


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--trainer.precision=bf16-mixed", "TD3BC trains and acts in 32-true or 64-true, not trainer.precision bf16"),
        ("--trainer.precision=16-mixed", "not trainer.precision 16-mixed"),
        ("--trainer.precision=bf16-true", "not trainer.precision bf16-true"),
        (stopping("eval/scores"), "EarlyStopping monitors 'eval/scores', which TD3BC does not log. Did you mean eval/"),
        (best("val_loss"), "ModelCheckpoint monitors 'val_loss', which TD3BC does not log. Known: eval/length"),
        (best("holdout/loss"), "ModelCheckpoint monitors 'holdout/loss', which TD3BC does not log."),
        ("--seed_everything=5000000000", "seed_everything must be from 0 to 4294967295, not 5000000000."),
        ("--parts_seed=5000000000", "pretrained_seed must be from 0 to 4294967295, not 5000000000."),
        ("--seed_everything=2.0", "seed_everything must be a whole number, or true for a random one."),
        ("--seed_everything=null", "seed_everything must be a whole number, or true for a random one."),
        ("--trainer.barebones=true", "trainer.barebones switches off"),
        ("--trainer.callbacks+=Timer", "--trainer.max_time"),
        ("--trainer.callbacks+={class_path: GradientAccumulationScheduler, init_args: {scheduling: {1: 2}}}",
         "TD3BC makes its gradient steps itself"),
        ("--ckpt_path=https://example.org/last.ckpt", "A checkpoint must be a file of this machine"),
        ("--trainer.strategy=deepspeed", "deepspeed"),
        ("--trainer.val_check_interval=7", "val_check_interval"),
        ("--name=../out", "--name ../out is no folder of runs in runs_dir"),
        ("--name=/out", "--name /out is no folder of runs in runs_dir"),
        ("--name=parts/mine", "--name parts/mine is no folder of runs in runs_dir"),
        ("--trainer.profiler=nothing", "profiler"),
    ],
)  # fmt: skip
def test_a_setting_that_cannot_work_is_refused_in_one_line(place, capsys, option, said):
    assert said in error_of(capsys, "fit", "--config", "run.yaml", option)


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--trainer.limit_val_batches=0", "RewardModel would keep no best weights: trainer.limit_val_batches 0"),
        ("--trainer.check_val_every_n_epoch=20", "RewardModel would keep no best weights"),
        (stopping("holdout/los"), "EarlyStopping monitors 'holdout/los', which RewardModel does not log."),
        ("--trainer.callbacks+=Timer", "--trainer.max_time"),
    ],
)
def test_a_setting_of_a_pretrained_model_is_refused_in_one_line(place, capsys, option, said):
    assert said in error_of(capsys, "fit", "--config", "pretrain/rew.yaml", *SOURCE, option)


@pytest.mark.parametrize("name", ["Wandb", "MLFlow"])
def test_a_logger_without_its_package_says_what_to_install(place, capsys, monkeypatch, name):
    monkeypatch.setattr(preflight, "find_spec", lambda package: None)
    error = error_of(capsys, "fit", "--config", "run.yaml", f"--trainer.logger={name}Logger")
    assert f"{name}Logger needs the package" in error and pip_install(name.lower()) in error


def test_advice_fits_the_way_of_installation(monkeypatch, tmp_path):
    assert pip_install("minari") == "pip install -e '.[minari]'"  # these tests run in a checkout
    monkeypatch.setattr("dydiff.utils.console.__file__", str(tmp_path / "site-packages/dydiff/utils/console.py"))
    assert pip_install("minari") == "pip install 'dydiff[minari]'"


def test_extras_that_advice_names_exist():
    import tomllib

    root = Path(__file__).parents[2]
    extras = tomllib.loads((root / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {"wandb", "mlflow", "minari", "sweep", "report", "video", "collect"} <= set(extras)


def config_with(model, monitor, callback="lightning.pytorch.callbacks.EarlyStopping"):
    entry = Namespace(class_path=callback, init_args=Namespace(monitor=monitor))
    return Namespace(trainer=Namespace(callbacks=[entry]), rollout=Namespace(class_path="callbacks.SyntheticRollout"))


def test_monitors_are_compared_with_what_is_logged():
    """Of our classes every name is known; another's may log more, but a near miss is still a mistake."""
    for model, monitor in [(TD3BC, "eval/score"), (TD3BC, "train/q_mean"), (TD3BC, "rollout/return"),
                           (DynamicsEnsemble, "holdout/worst_member"), (Logging, "my/metric")]:  # fmt: skip
        preflight.check_monitors(config_with(model, monitor), model)
    for model, monitor in [(TD3BC, "my/metric"), (DynamicsEnsemble, "eval/score"), (Logging, "eval/scores")]:
        with pytest.raises(UserError, match=f"monitors '{monitor}', which {model.__name__} does not log"):
            preflight.check_monitors(config_with(model, monitor), model)


def test_the_names_of_scores_are_those_of_an_evaluation():
    score = NormalizedScore(0.0, 1.0)
    score.update(torch.ones(2), torch.ones(2, dtype=torch.int64))
    assert tuple(f"eval/{name}" for name in score.compute()) == SCORES


def test_the_names_over_the_holdout_are_those_that_are_logged(place):
    """Of each kind of model, ``holdout_names`` is what a training logs."""
    for name in ("rew", "dyn", "den"):
        assert main(["fit", "--config", f"pretrain/{name}.yaml", *SOURCE, *QUIET, "--trainer.max_epochs=1"]) == 0
        folder = max(Path("runs/pretrained").glob("*/config.yaml"), key=lambda path: path.stat().st_mtime_ns).parent
        tags = EventAccumulator(str(folder)).Reload().Tags()["scalars"]
        module, _, kind = yaml.safe_load((folder / "config.yaml").read_text())["model"]["class_path"].rpartition(".")
        model = getattr(importlib.import_module(module), kind)
        assert sorted(tag for tag in tags if tag.startswith("holdout/")) == sorted(model.holdout_names)


def test_a_mistake_in_code_keeps_its_traceback(place):
    """Of a custom class, even where torch raises it while objects are made."""
    with pytest.raises((RuntimeError, ValueError), match="size"):
        main(["fit", "--config", "run.yaml", *QUIET, "--model=test_preflight.Broken"])
    try:
        torch.ones(2) @ torch.ones(3)
    except RuntimeError as error:
        assert user_error(error) is None
    try:
        LocalSource(path="nothing.hdf5").no_such_method()
    except AttributeError as error:
        assert user_error(error) is None


def test_a_full_disk_is_named_whoever_writes():
    """TensorBoard's and Lightning's writers say neither what they write nor where."""
    with pytest.raises(OSError, match="No space left") as caught, open("/dev/full", "w") as file:
        file.write("x")
    assert "The disk is full" in str(user_error(caught.value))


@pytest.mark.parametrize(
    ("seeds", "said"),
    [
        ([10.0], "seed_everything must be a whole number"),
        ([None], "seed_everything must be a whole number"),
        ([True], "seed_everything must be a number in a sweep"),
        ([5_000_000_000], "seed_everything must be from 0 to"),
    ],
)
def test_a_sweep_refuses_wrong_seeds_before_it_starts(place, capsys, seeds, said):
    write_yaml(Path("sweep.yaml"), {
        "name": "tiny", "axes": {"seed": seeds},
        "options": {"config": "run.yaml", "seed_everything": "{seed}"}})  # fmt: skip
    assert main(["sweep", "--config", "sweep.yaml", "--dry_run=true"]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1 and not Path("runs/tiny").exists()


def test_csv_logger_needs_no_folder(place):
    base = "{class_path: lightning.pytorch.callbacks.Callback}"
    command = ["fit", "--config", "run.yaml", *QUIET, f"--rollout={base}", "--trainer.max_epochs=1"]
    assert main([*command, "--trainer.logger=CSVLogger"]) == 0
    assert Path("runs/run/version_0/metrics.csv").is_file() and not Path("version_0").exists()
    assert not Path("lightning_logs").exists()


def test_lightning_is_not_changed_for_others(tmp_path):
    """CSVLogger still takes its folder by position, and requires it."""
    kind = L.pytorch.loggers.CSVLogger
    assert kind(tmp_path, "name").log_dir == str(tmp_path / "name/version_0")
    with pytest.raises(TypeError, match="save_dir"):
        kind(name="name")


BASE = "--rollout={class_path: lightning.pytorch.callbacks.Callback}"


def scalars(folder):
    events = EventAccumulator(folder).Reload()
    return {tag: [event.value for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


@pytest.mark.parametrize(("epochs", "every", "count"), [(2, 5, 1), (3, 2, 2), (4, 2, 2)])
def test_a_training_ends_with_a_score(place, capsys, epochs, every, count):
    lengths = [f"--trainer.max_epochs={epochs}", f"--trainer.check_val_every_n_epoch={every}"]
    assert main(["fit", "--config", "run.yaml", *QUIET, BASE, *lengths]) == 0
    assert "normalised score" in capsys.readouterr().out
    assert len(scalars("runs/run/version_0")["eval/score"]) == count


def test_results_of_validate_and_test_are_files(place, capsys):
    command = ["--config", "run.yaml", *QUIET]
    assert main(["fit", *command, BASE, "--trainer.max_epochs=1"]) == 0
    trained = scalars("runs/run/version_0")
    checkpoint = "--ckpt_path=runs/run/version_0/checkpoints/last.ckpt"
    assert main(["validate", *command, checkpoint]) == 0
    assert "Written to" in capsys.readouterr().out
    result = json.loads(Path("runs/run/version_0/validate.json").read_text())
    assert result["eval/score"] == pytest.approx(trained["eval/score"][0])
    assert result["eval/return"] == pytest.approx(trained["eval/return"][0])
    assert (result["agent"], result["num_updates"], result["env_id"]) == ("TD3BC", 6, "Hopper-v4")
    assert main(["test", *command, checkpoint, "--out=results/mine.json"]) == 0
    assert json.loads(Path("results/mine.json").read_text())["command"] == "test"
    assert not Path("runs/run/version_0/test.json").exists()
    Path("elsewhere.ckpt").write_bytes(Path("runs/run/version_0/checkpoints/last.ckpt").read_bytes())
    before = sorted(Path(".").rglob("*"))
    assert main(["test", *command, "--ckpt_path=elsewhere.ckpt"]) == 0
    assert sorted(Path(".").rglob("*")) == before


def test_a_return_is_not_called_a_normalised_score(place, capsys):
    """Where an environment has no range of scores."""
    dims = {"obs_dim": 3, "act_dim": 1}
    random = np.random.default_rng(0)
    arrays = {"observations": random.normal(size=(120, dims["obs_dim"])), "rewards": random.normal(size=120),
              "actions": random.uniform(-1, 1, (120, dims["act_dim"])), "terminals": np.zeros(120, bool),
              "timeouts": np.arange(120) % 40 == 39}  # fmt: skip
    np.savez(
        "pendulum.npz", **{key: value.astype("f4" if value.dtype != bool else bool) for key, value in arrays.items()}
    )
    source = ["--data.source.path=pendulum.npz", "--data.source.env_id=Pendulum-v1"]
    command = ["--config", "run.yaml", *QUIET, *source]
    assert main(["fit", *command, BASE, "--trainer.max_epochs=1"]) == 0
    said = capsys.readouterr().out
    assert "return" in said and "normalised" not in said
    assert main(["test", *command, "--ckpt_path=runs/run/version_0/checkpoints/last.ckpt"]) == 0
    result = json.loads(Path("runs/run/version_0/test.json").read_text())
    assert "eval/return" in result and "eval/score" not in result


def test_times_continue_after_a_break(place):
    """They never fall, and the sum of a resumed run has the seconds before the break."""
    command = ["fit", "--config", "run.yaml", *QUIET]
    assert main([*command, "--trainer.max_epochs=2"]) == 0
    path = "runs/run/version_0/checkpoints/last.ckpt"
    saved = torch.load(path, weights_only=True)
    saved["evaluation_seconds"], saved["rollout_seconds"], saved["fit_seconds"] = 1000.0, 2000.0, 4000.0
    torch.save(saved, path)
    assert main([*command, "--trainer.max_epochs=4", "--ckpt_path=last"]) == 0
    after = scalars("runs/run/version_0")
    assert 1000 < after["seconds/evaluation"][-1] < 1500 and 2000 < after["seconds/rollout"][-1] < 2500
    saved = torch.load(path, weights_only=True)
    assert 4000 < saved["fit_seconds"] < 4500
    for name in ("evaluation", "rollout"):
        seconds = after[f"seconds/{name}"]
        assert seconds == sorted(seconds) and saved[f"{name}_seconds"] == pytest.approx(seconds[-1], rel=1e-5)


@pytest.mark.parametrize(("option", "threads"), [([], 1), (["--threads=2"], 2)])
def test_threads_of_a_command(place, capsys, monkeypatch, option, threads):
    """1 on the CPU unless said otherwise, in the models' training too; what was set before is set again after it."""
    seen = set()
    step = TD3BC.training_step, RewardModel.training_step

    def noting(kind, original):
        def training_step(self, *args):
            seen.add((kind, torch.get_num_threads()))
            return original(self, *args)

        return training_step

    monkeypatch.setattr(TD3BC, "training_step", noting("agent", step[0]))
    monkeypatch.setattr(RewardModel, "training_step", noting("model", step[1]))
    torch.set_num_threads(3)
    try:
        assert main(["fit", "--config", "run.yaml", *QUIET, *option, "--trainer.max_epochs=1"]) == 0
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(1)
    assert seen == {("agent", threads), ("model", threads)}
    assert f"Threads of torch: {threads}." in capsys.readouterr().out


def test_a_dataset_that_is_being_written_is_named(place, capsys):
    """h5py #1101, PyTables #888: HDF5 locks a file that is open for writing."""
    code = "import h5py, sys; f = h5py.File('hopper.hdf5', 'r+'); print('open', flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout.readline() == b"open\n"
        error = error_of(capsys, "fit", "--config", "run.yaml")
        writer.stdin.close()
    assert "hopper.hdf5 is open for writing in another process" in error
