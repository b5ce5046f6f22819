"""Settings that Lightning would refuse late or with a traceback: one line, exit code 2, and nothing is left behind."""

import importlib.util
from pathlib import Path

import lightning as L
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
from dydiff.data.d4rl import D4RLSource
from dydiff.envs.play import NormalizedScore
from dydiff.models.dynamics import DynamicsEnsemble
from dydiff.utils.console import pip_install
from dydiff.utils.errors import UserError

SOURCE = ("--data.source", "dydiff.data.D4RLSource", "--data.source.path", "hopper.hdf5")


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
        ("--parts_seed=5000000000", "parts_seed must be from 0 to 4294967295, not 5000000000."),
        ("--seed_everything=2.0", "seed_everything must be a whole number, or true for a random one."),
        ("--seed_everything=null", "seed_everything must be a whole number, or true for a random one."),
        ("--trainer.barebones=true", "trainer.barebones switches off"),
        ("--trainer.callbacks+=Timer", "--trainer.max_time"),
        ("--trainer.callbacks+={class_path: GradientAccumulationScheduler, init_args: {scheduling: {1: 2}}}",
         "TD3BC makes its gradient steps itself"),
        ("--ckpt_path=https://example.org/last.ckpt", "A checkpoint must be a file of this machine"),
        ("--trainer.strategy=deepspeed", "deepspeed"),
        ("--trainer.val_check_interval=7", "val_check_interval"),
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

    root = Path(__file__).parent.parent
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
    for part in ("rew", "dyn", "den"):
        assert main(["fit", "--config", f"pretrain/{part}.yaml", *SOURCE, *QUIET, "--trainer.max_epochs=1"]) == 0
        folder = max(Path("runs/parts").glob("*/config.yaml"), key=lambda path: path.stat().st_mtime_ns).parent
        tags = EventAccumulator(str(folder)).Reload().Tags()["scalars"]
        module, _, name = yaml.safe_load((folder / "config.yaml").read_text())["model"]["class_path"].rpartition(".")
        model = getattr(importlib.import_module(module), name)
        assert sorted(tag for tag in tags if tag.startswith("holdout/")) == sorted(model.holdout_names)


def test_a_mistake_in_code_keeps_its_traceback(place):
    """Of the user's own class, even where torch raises it while objects are made."""
    with pytest.raises((RuntimeError, ValueError), match="size"):
        main(["fit", "--config", "run.yaml", *QUIET, "--model=test_preflight.Broken"])
    try:
        torch.ones(2) @ torch.ones(3)
    except RuntimeError as error:
        assert user_error(error) is None
    try:
        D4RLSource(path="nothing.hdf5").no_such_method()
    except AttributeError as error:
        assert user_error(error) is None


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
    """CSVLogger still takes its folder by position."""
    assert L.pytorch.loggers.CSVLogger(tmp_path, "name").log_dir == str(tmp_path / "name/version_0")
