"""When a pretrained model is trained, and when one that exists is used."""

import shutil
import subprocess
import sys
from pathlib import Path

from tiny import QUIET
from whole_run import fit, pretrained, weights

from dydiff.cli import main


def test_models_are_keyed_by_dataset_and_settings(place, write_dataset, capsys):
    pretrain = ["fit", "--config", "pretrain/rew.yaml", *QUIET]
    source = "--data.init_args.source={class_path: dydiff.data.LocalSource, init_args: {path: %s}}"
    assert main([*pretrain, source % "hopper.hdf5"]) == 0
    assert main([*pretrain, source % "hopper.hdf5"]) == 0
    assert "Already trained" in capsys.readouterr().out
    assert main([*pretrain, source % "hopper.hdf5", "--model.init_args.lr=0.01"]) == 0
    write_dataset((30, 40, 20, 35), name="other.hdf5", seed=5)
    shutil.move("other.hdf5", "hopper.hdf5")  # the same name, other numbers
    assert main([*pretrain, source % "hopper.hdf5"]) == 0
    trained = [path for path in Path("runs/pretrained").iterdir() if (path / "weights.pt").is_file()]
    assert len(trained) == 3


def test_of_two_runs_that_need_a_model_one_trains_it(place):
    """Both start at once; the second waits, and finds it trained."""
    command = [
        sys.executable,
        "-m",
        "dydiff",
        "fit",
        "--config",
        "pretrain/rew.yaml",
        *QUIET,
        "--data.init_args.source",
    ]
    command.append("{class_path: dydiff.data.LocalSource, init_args: {path: hopper.hdf5}}")
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    both = [subprocess.Popen(command, **pipes) for _ in range(2)]
    outputs = sorted(run.communicate()[0] for run in both)
    assert [run.returncode for run in both] == [0, 0]
    for message in ("best holdout loss", "Already trained"):
        assert sum(message in output for output in outputs) == 1
    (model,) = pretrained().values()
    assert len(list(model.glob("events*"))) == 1


def test_an_interrupted_model_is_not_taken_for_a_trained_one(place):
    assert fit() == 0
    directory = pretrained()["den"]
    (directory / "weights.pt").unlink()
    assert fit() == 0
    assert (directory / "weights.pt").is_file()


def test_a_model_is_found_by_what_it_is(place):
    """Not by the name that it was trained under."""
    source = ["--data.source", "LocalSource", "--data.source.path", "hopper.hdf5"]
    den = ["fit", "--config", "pretrain/den.yaml", *source, *QUIET]
    assert main([*den, "--name", "mine"]) == 0
    assert fit("--trainer.max_epochs=1") == 0
    assert sorted(pretrained()) == ["dyn", "mine", "rew"]


def test_a_model_of_an_earlier_version_is_found(place, capsys):
    """Its folder was runs/parts then, and the option of its seed --parts_seed."""
    assert fit("--trainer.max_epochs=1", "--pretrained_seed=1") == 0
    Path("runs/pretrained").rename("runs/parts")
    saved = Path("runs/run/version_0/config.yaml")
    saved.write_text(saved.read_text().replace("pretrained_seed: 1", "parts_seed: 1"))
    capsys.readouterr()
    assert fit("--parts_seed=1", "--trainer.max_epochs=2", "--ckpt_path=last") == 0
    assert capsys.readouterr().out.count("reuse") == 3
    assert not Path("runs/pretrained").exists() and weights(0)["num_updates"] == 12
    assert main(["fit", "--config", str(saved), "--pretrained_seed=0", "--ckpt_path=last"]) == 2
    assert "made with pretrained_seed 1, this command says 0" in capsys.readouterr().err
