"""Wrong input: one line, and nothing is left behind."""

from pathlib import Path

import pytest
from tiny import model_config, write_yaml
from whole_run import fit

from dydiff.cli import main
from dydiff.cli.entry import COMMANDS


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--rollout.init_args.real_ratio=-1"], "real_ratio must be in [0, 1], not -1.0."),
        (["--data.init_args.updates_per_step=4"], "updates_per_step (4) must divide updates_per_epoch (6)."),
        (["--rollout.init_args.filter.init_args.keep_ratio=2"], "keep_ratio must be in (0, 1], not 2.0."),
        (["--rollout.init_args.synthesizer.init_args.rollout_length=9"], "longer than the denoiser's horizon (8)"),
        (["--rollout.init_args.synthesizer.init_args.denoiser=nowhere.yaml"], "nowhere.yaml"),
        (["--model.init_args.gama=0.9"], "Unknown key 'gama' in model (dydiff.agents.TD3BC). Did you mean gamma"),
        (["--rollout=nowhere.yaml"], "rollout: there is no file nowhere.yaml."),
        (["--data.source=nowhere.yaml"], "data.source: there is no file nowhere.yaml."),
        (["--trainer.max_epoch=3"], "Did you mean trainer.max_epochs"),
        (["--rollout.init_args.synthesizer.init_args.num_correction=1"], "Did you mean num_corrections"),
        (["--model=dydiff.agents.td3bc.TD3BD"], "Did you mean TD3BC"),
        (["--data.init_args.batch_size=many"], "data.batch_size: Expected a <class 'int'>. Got value: many"),
        (["--data.init_args.source.init_args.path=missing.hdf5"], "No dataset at"),
        (["--trainer.devices=0"], "is not a valid input using cpu"),
        (["--trainer.callbacks=nope"], "trainer.callbacks: Expected a path but nope"),
        (["--ckpt_path=missing.ckpt"], "No checkpoint at"),
        (["--ckpt_path=run.yaml"], "run.yaml is damaged or not a checkpoint"),
    ],
)
def test_wrong_input_is_one_line_and_leaves_nothing(place, capsys, options, message):
    assert fit(*options) == 2
    error = capsys.readouterr().err
    lines = [line for line in error.splitlines() if not line.startswith(("Seed set", "GPU", "TPU", "INFO", "💡"))]
    assert len(lines) == 1 and lines[0].startswith("error: ") and message in lines[0]
    assert not Path("runs").exists()


def test_horizon_that_no_episode_has(place, capsys):
    path = Path("pretrain/den.yaml")
    write_yaml(path, model_config("denoiser.Denoiser", "WindowDataModule", horizon=64, width=8, multipliers=[1, 2]))
    assert fit() == 2
    assert "has the horizon's 64 steps, the longest has 40" in capsys.readouterr().err
    assert not list(Path(".").rglob("*.pt")) and not list(Path(".").rglob("*.ckpt"))


def test_damaged_dataset_stops_before_anything_is_trained(place, capsys):
    whole = Path("hopper.hdf5").read_bytes()
    Path("hopper.hdf5").write_bytes(whole[:-5000])
    assert fit() == 2
    assert "Download or copy it again" in capsys.readouterr().err
    assert not Path("runs").exists()


def test_unknown_command(capsys):
    assert main(["sweeep"]) == 2
    assert "There is no command 'sweeep'. Did you mean sweep?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "message"),
    [("fit", "Interrupted. Resume with --ckpt_path last."), ("sweep", "Interrupted. The same command resumes it."),
     ("generate", "Interrupted.")],
)  # fmt: skip
def test_an_interrupted_command_says_how_to_resume_if_it_can_be(monkeypatch, capsys, command, message):
    def interrupt(args):
        raise KeyboardInterrupt

    monkeypatch.setitem(COMMANDS, command, interrupt)
    assert main([command]) == 130
    assert capsys.readouterr().err == f"error: {message}\n"
