"""Checkpoints from strangers: they execute nothing, and what is wrong with them is one line."""

import os
import shutil
from pathlib import Path

import faults
import numpy as np
import pytest
import torch
from conftest import GOLDEN
from tiny import QUIET, write_run, write_yaml

from dydiff.cli import main
from dydiff.data.local import LocalSource
from dydiff.utils.checkpoints import read_checkpoint
from dydiff.utils.errors import UserError

LAST = "runs/run/version_0/checkpoints/last.ckpt"


class Bomb:
    """Unpickled, it makes the file ``exploded``."""

    def __reduce__(self):
        return os.mkdir, ("exploded",)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    write_run(folder)
    faults.finish(folder)
    return folder


@pytest.fixture
def copy(trained, tmp_path, monkeypatch):
    """A finished run, to be spoiled."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def error_of(capsys, *args):
    """The one line that a command ends with."""
    capsys.readouterr()
    assert main([*args, *(QUIET if args[0] in ("fit", "validate", "test") else ())]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert not Path("exploded").exists()
    return line


COMMANDS = {
    "fit": ("fit", "--config=run.yaml", f"--ckpt_path={LAST}", "--trainer.max_epochs=4"),
    "last": ("fit", "--config=run.yaml", "--ckpt_path=last", "--trainer.max_epochs=4"),
    "validate": ("validate", "--config=run.yaml", f"--ckpt_path={LAST}"),
    "test": ("test", "--config=run.yaml", f"--ckpt_path={LAST}"),
    "analyze": ("analyze", "horizon_error", "--config=analysis.yaml"),
}

ANALYSIS = {
    "source": {"class_path": "dydiff.data.LocalSource", "init_args": {"path": "hopper.hdf5"}},
    "synthesizers": {"draft": {"class_path": "dydiff.rollout.Autoregressive", "init_args": {
        "dynamics": "pretrain/dyn.yaml", "reward": "pretrain/rew.yaml", "rollout_length": 6}}},
    "agent": {"class_path": "dydiff.agents.TD3BC", "init_args": {"hidden_sizes": [16, 16]}},
    "checkpoint": LAST,
}  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("where", ["whole file", "state_dict", "hyper_parameters"])
def test_an_agents_checkpoint_executes_nothing(copy, capsys, command, where):
    content = torch.load(LAST, weights_only=True)
    write_yaml(Path("analysis.yaml"), ANALYSIS)
    torch.save(Bomb() if where == "whole file" else content | {where: Bomb()}, LAST)
    assert "is damaged or not a checkpoint" in error_of(capsys, *COMMANDS[command])


def test_a_models_files_execute_nothing(copy, capsys):
    (weights,) = Path("runs/pretrained").glob("dyn-*/weights.pt")
    torch.save({"state_dict": {"network": Bomb()}}, weights)
    assert "weights.pt is damaged or not a checkpoint" in error_of(capsys, "fit", "--config=run.yaml")
    interrupted = weights.parent / "checkpoints" / "last.ckpt"
    interrupted.parent.mkdir()
    weights.rename(interrupted)
    assert "last.ckpt is damaged or not a checkpoint" in error_of(capsys, "fit", "--config=run.yaml")


def test_a_datasets_arrays_execute_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("bomb.npz", observations=np.array([Bomb()], dtype=object), actions=0, rewards=0, terminals=0)
    with pytest.raises(UserError, match="is not a readable"):
        LocalSource(path="bomb.npz", env_id="Hopper-v4").load()
    assert not Path("exploded").exists()


def test_what_a_collector_resumes_from_executes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    state = Path("work/hopper-sac-seed0/training.pt")
    state.parent.mkdir(parents=True)
    torch.save({"steps": 0, "scores": Bomb(), "parameters": {}, "replay": {}}, state)
    command = ("collect", "locomotion", "--task=hopper", "--dataset=medium", "--work_dir=work", "--num_transitions=20")
    assert "training.pt is damaged or not a checkpoint" in error_of(capsys, *command)


def test_a_checkpoint_that_is_cut_anywhere(copy):
    whole = Path(LAST).read_bytes()
    for length in {*range(0, len(whole), max(1, len(whole) // 150)), len(whole) - 1}:
        Path("cut.ckpt").write_bytes(whole[:length])
        with pytest.raises(UserError, match="is damaged or not a checkpoint"):
            read_checkpoint(Path("cut.ckpt"))


@pytest.mark.parametrize("command", ["fit", "test"])
def test_weights_that_are_not_finite(copy, capsys, command):
    content = torch.load(LAST, weights_only=True)
    content["state_dict"]["actor.0.weight"][0, 0] = float("nan")
    torch.save(content, LAST)
    assert "'actor.0.weight' is not made of finite numbers" in error_of(capsys, *COMMANDS[command])


@pytest.mark.parametrize("command", ["fit", "test"])
def test_weights_of_another_shape(copy, capsys, command):
    content = torch.load(LAST, weights_only=True)
    content["state_dict"]["actor.0.weight"] = torch.zeros(5, 5)
    torch.save(content, LAST)
    assert "does not hold a TD3BC of this task: actor.0.weight differs" in error_of(capsys, *COMMANDS[command])


def test_a_model_of_another_shape(copy, capsys):
    (weights,) = Path("runs/pretrained").glob("rew-*/weights.pt")
    content = torch.load(weights, weights_only=True)
    del content["state_dict"]["network.0.weight"]
    torch.save(content, weights)
    assert "does not hold a RewardModel of this task: network.0.weight differs" in error_of(
        capsys, "fit", "--config=run.yaml"
    )


def test_other_files_in_a_checkpoints_place(copy, capsys):
    shutil.copy(next(iter(GOLDEN.glob("*.npz"))), LAST)
    assert "is damaged or not a checkpoint" in error_of(capsys, *COMMANDS["test"])
    torch.save([1, 2], LAST)
    assert "is damaged or not a checkpoint" in error_of(capsys, *COMMANDS["test"])
