"""Agents, filters, rollout methods, datasets and loggers of someone else's: they run, their mistakes are one line."""

from pathlib import Path

import pytest
import yaml
from outside import Cloning
from tiny import QUIET
from whole_run import fit

from dydiff.agents.base import load_agent
from dydiff.cli import main
from dydiff.data.local import LocalSource
from dydiff.report.runs import longest, read_runs

STANDING = ("--rollout.synthesizer", "outside.Standing", "--rollout.filter", "outside.Newest")
BASE = ("--rollout", "null")


def left_behind():
    return sorted(str(path) for path in Path("runs").rglob("*") if not path.name.startswith("."))


def refused(capsys, *options):
    """The one line that a command ends with; nothing is left of it."""
    assert fit(*options) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and left_behind() in ([], ["runs/run"])
    return error


def test_all_custom_classes_run_together_and_resume(place):
    custom = (
        "--model",
        "outside.Cloning",
        *STANDING,
        "--data.source",
        "outside.Copies",
        "--data.source.path",
        "hopper.hdf5",
    )
    assert fit(*custom, "--trainer.max_epochs", "2") == 0
    assert fit(*custom, "--trainer.max_epochs", "3", "--ckpt_path", "last") == 0
    assert [run.steps for run in read_runs(["runs"])] == [[6, 12, 18]]
    assert main(["test", "--config", "run.yaml", *QUIET, *custom, "--ckpt_path", "last"]) == 0
    load_agent(Cloning(11, 3), "runs/run/version_0/checkpoints/last.ckpt", LocalSource(path="hopper.hdf5").task)


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        ("forgets its settings", "Cloning must call self.save_hyperparameters() in its __init__"),
        ("acts beyond the bounds", "Cloning.act must give actions in [-1, 1], not "),
        ("acts too narrowly", "Cloning.act gives shape (2, 2) for 2 states, not (2, 3)."),
        ("returns nothing", "Cloning.update must return metrics by name, not None."),
        ("returns a float", "Cloning.update must return detached scalar tensors, which 'loss' is not."),
        ("returns a vector", "Cloning.update must return detached scalar tensors, which 'loss' is not."),
    ],
)
def test_an_agents_mistakes_are_reported(place, capsys, mistake, message):
    assert message in refused(capsys, *BASE, "--model", "outside.Cloning", "--model.mistake", mistake)


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        ("nan", "'reward' has a value that is not finite in row 7"),
        ("column", "'reward' has shape (125, 1), not (125,)"),
        ("double", "'obs' must be a tensor of torch.float32, not torch.float64"),
        ("numpy", "'act' must be a tensor of torch.float32, not ndarray"),
        ("wide", "but must be in [-1, 1]"),
        ("lost", "add up to 125 transitions, not to 90"),
        ("empty", "it contains no transitions"),
        ("continues", "an episode continues after its end in row 29"),
    ],
)
def test_an_unsound_dataset_is_reported(place, capsys, mistake, message):
    source = ("--data.source", "outside.Copies", "--data.source.path", "hopper.hdf5", "--data.source.mistake", mistake)
    error = refused(capsys, *BASE, *source)
    assert error.startswith(f"error: Copies(path='hopper.hdf5', mistake='{mistake}') is invalid: ") and message in error


@pytest.mark.parametrize("rollout", [BASE, ()])
def test_a_dataset_that_cannot_be_read_is_reported(place, capsys, rollout):
    error = refused(capsys, *rollout, "--data.source", "outside.Missing")
    assert "Missing() cannot be read: FileNotFoundError" in error and "(outside.py, line " in error


@pytest.mark.parametrize("rule", ["fell", "fell_as_documented", "fell_said_otherwise"])
def test_a_termination_rule_is_taken_whatever_it_says_it_gives(place, rule):
    assert fit(*BASE, "--data.source.terminated", f"outside.{rule}", "--trainer.max_epochs", "1") == 0


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("fell_of_two", "The termination rule fails: TypeError: fell_of_two() takes 2"),
        (
            "fell_of_each_number",
            "must return a tensor of torch.bool and shape [N] = (125,), not torch.bool of shape (125, 11).",
        ),
        ("fel", "Nothing named 'fel' in outside."),
    ],
)
def test_a_termination_rule_that_does_not_work_is_reported(place, capsys, rule, message):
    assert message in refused(capsys, *BASE, "--data.source.terminated", f"outside.{rule}")


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        ("bare", "Standing.synthesize must return (Trajectories, metrics), not Trajectories."),
        ("short", "valid trajectories: 'obs' has shape (10, 4, 11), not (10, 5, 11)"),
        ("wide", "valid trajectories: 'act' reaches "),
        ("double", "'reward' must be a tensor of torch.float32, not torch.float64"),
        ("scalar", "the metric 'height' must have a number for each of 10 trajectories"),
    ],
)
def test_a_rollout_methods_mistakes_are_reported(place, capsys, mistake, message):
    assert message in refused(capsys, *STANDING, "--rollout.synthesizer.mistake", mistake)


def test_keys_that_have_no_order_are_reported(place, capsys):
    error = refused(capsys, *STANDING, "--rollout.filter", "outside.Clueless")
    assert "Clueless.keys gives keys that are not a number" in error


def test_a_filter_ranks_by_the_synthesizers_metrics(place, capsys):
    by_height = (*STANDING[:2], "--rollout.filter", "outside.Tallest")
    assert fit(*by_height, "--trainer.max_epochs", "1") == 0
    assert fit(*by_height, "--rollout.filter.metric", "hight", "--name", "other") == 2
    assert "needs the metric 'hight', which the synthesizer lacks. Did you mean height?" in capsys.readouterr().err


def test_filters_of_one_initial_are_two_methods(place):
    for name in ("Newest", "Nicest"):
        assert fit(*STANDING, "--rollout.filter", f"outside.{name}", "--name", name) == 0
    runs = longest(read_runs(["runs"]))
    assert sorted(run.label for run in runs) == ["Standing-Newest", "Standing-Nicest"]


def test_agents_of_one_name_are_distinguished(place):
    for number, agent in enumerate(("outside.Cloning", "dydiff.agents.TD3BC")):
        assert fit(*BASE, "--model", agent, "--name", str(number)) == 0
    path = Path("runs/1/version_0/config.yaml")
    path.write_text(path.read_text().replace("dydiff.agents.TD3BC", "other.Cloning"))
    assert sorted(run.agent for run in read_runs(["runs"])) == ["other.Cloning", "outside.Cloning"]


@pytest.mark.parametrize(
    "loggers",
    [
        "[{class_path: CSVLogger, init_args: {save_dir: elsewhere}}]",
        "[{class_path: CSVLogger, init_args: {save_dir: runs, name: other}}, "
        "{class_path: TensorBoardLogger, init_args: {save_dir: elsewhere}}]",
        "[{class_path: TensorBoardLogger, init_args: {save_dir: elsewhere, sub_dir: below}}, "
        "{class_path: CSVLogger, init_args: {save_dir: elsewhere}}]",
        "outside.Remote",
    ],
)
def test_a_run_is_in_its_own_folder_whatever_logs_it(place, loggers):
    """And resumes there; its log is that of a run without a break."""
    loggers = f"--trainer.logger={loggers}"
    assert fit(*STANDING, loggers, "--trainer.max_epochs", "1") == 0
    assert fit(*STANDING, loggers, "--ckpt_path", "last") == 0
    assert main(["validate", "--config", "run.yaml", *QUIET, *STANDING, loggers, "--ckpt_path", "last"]) == 0
    assert [str(path) for path in Path().rglob("version_*")] == ["runs/run/version_0"]
    config = yaml.safe_load(Path("runs/run/version_0/config.yaml").read_text())
    assert config["name"] == "run" and Path("runs/run/version_0/checkpoints/last.ckpt").is_file()
    (run,) = read_runs(["runs"])
    assert fit(*STANDING, "--name", "whole") == 0
    (whole,) = read_runs(["runs/whole"])
    assert run.steps == whole.steps == [6, 12, 18] and run.scores == pytest.approx(whole.scores)


def test_nothing_is_left_of_a_run_that_fails_at_once_with_its_own_logger(place, capsys):
    csv = "--trainer.logger={class_path: CSVLogger, init_args: {save_dir: runs, name: run}}"
    refused(capsys, *STANDING, csv, "--rollout.filter", "outside.Clueless")
    with pytest.raises(ZeroDivisionError):
        fit(*BASE, "--trainer.callbacks+=outside.Broken")
    assert left_behind() == ["runs/run"]


def test_a_model_that_keeps_no_best_weights_is_reported_before_it_is_trained(place, capsys):
    path = Path("pretrain/rew.yaml")
    config = yaml.safe_load(path.read_text())
    kept = config["trainer"]["callbacks"]
    config["trainer"]["callbacks"] = [{"class_path": "callbacks.LastCheckpoint"}]
    path.write_text(yaml.safe_dump(config))
    source = ("--data.source", "LocalSource", "--data.source.path", "hopper.hdf5")
    assert main(["fit", "--config", str(path), *QUIET, *source]) == 2
    assert "needs a ModelCheckpoint with 'monitor'" in capsys.readouterr().err
    assert left_behind() == []
    config["trainer"]["callbacks"] = kept[::-1]  # whichever comes first
    path.write_text(yaml.safe_dump(config))
    assert main(["fit", "--config", str(path), *QUIET, *source]) == 0
    assert len(list(Path("runs").rglob("weights.pt"))) == 1


def test_an_analysis_of_someone_elses_is_found_by_its_path(place, capsys):
    source = ("--source", "LocalSource", "--source.path", "hopper.hdf5")
    assert main(["analyze", "outside.tallest", *source, "--scale", "2"]) == 0
    obs = LocalSource(path="hopper.hdf5").load().transitions.obs
    assert capsys.readouterr().out.strip() == f"{2 * float(obs[:, 0].max()):.4f}"
    assert main(["analyze", "outside.count", *source]) == 0 and capsys.readouterr().out == "125\n"
    assert main(["analyze", "dydiff.analysis.theory"]) == 2
    assert "dydiff.analysis.theory is a module, not a function" in capsys.readouterr().err
    assert main(["analyze", "./theory.yaml"]) == 2 and "Not './theory.yaml'" in capsys.readouterr().err
    assert main(["analyze", "outside.smallest"]) == 2
    assert "There is no outside.smallest: module 'outside' has no attribute" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("outsid.Cloning", "model: No module named 'outsid'\n"),
        ("outside.Clonin", "Nothing named 'Clonin' in outside. Did you mean Cloning, "),
        ("dydiff.agent.TD3BC", "Nothing named 'agent' in dydiff. Did you mean agents"),
        ("outside.Newest", "model: outside.Newest does not correspond to a subclass of LightningModule\n"),
        ("Agent", "Agent cannot be made, as it lacks what a class of its kind needs"),
        ("configs/none.yaml", "model: there is no file configs/none.yaml."),
        ("dydiff.agents.Agent", "Agent cannot be made, as it lacks act, update: name a class that has it."),
    ],
)
def test_a_class_that_cannot_be_made_is_reported(place, capsys, model, message):
    assert message in refused(capsys, *BASE, "--model", model)
