"""``validate`` and ``test``: which agent is scored, and what is written."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import imageio
import pytest
import torch
from tiny import QUIET
from whole_run import fit, scalars

from dydiff.cli import main


def test_saved_agent_is_scored_again(place, capsys):
    assert fit() == 0
    logged = scalars(0)["eval/score"][-1][1]
    checkpoint = "runs/run/version_0/checkpoints/last.ckpt"
    shutil.rmtree("runs/pretrained")  # scoring needs no pretrained model
    capsys.readouterr()
    assert main(["validate", "--config", "run.yaml", *QUIET, "--ckpt_path", checkpoint]) == 0
    out = capsys.readouterr().out
    shown = float(next(line for line in out.splitlines() if "eval/score " in line).split("│")[2])
    assert shown == pytest.approx(logged, rel=1e-5)
    assert main(["test", "--config", "run.yaml", *QUIET, "--ckpt_path", checkpoint]) == 0
    assert "eval/score" in capsys.readouterr().out
    assert not Path("runs/pretrained").exists() and not Path("config.yaml").exists()


def test_the_run_that_is_scored_is_the_one_that_is_named(place, capsys, caplog):
    """Not the newest one of whatever settings."""
    base = ["--rollout", "null"]
    assert fit("--trainer.max_epochs=1") == 0 and fit(*base, "--trainer.max_epochs=2") == 0
    score = ["test", "--config", "run.yaml", *QUIET, "--ckpt_path=last", "--data.num_eval_episodes=3"]
    for version, rollout in enumerate(([], base)):
        caplog.clear()
        assert main([*score, *rollout]) == 0
        assert f"weights from the checkpoint at runs/run/version_{version}/" in caplog.text
    assert main([*score, "--seed_everything=1"]) == 2
    error = capsys.readouterr().err
    assert "version_1 was made with seed_everything 0, this command says 1: give the same settings, or name" in error


def test_a_video_shows_the_first_scored_episode(place):
    assert fit("--rollout", "null", "--trainer.max_epochs=1") == 0
    command = [sys.executable, "-m", "dydiff", "test", "--config", "run.yaml", *QUIET, "--ckpt_path=last"]
    command += ["--data.num_eval_episodes=1", "--rollout", "null"]
    environment = os.environ | {"MUJOCO_GL": "egl", "COLUMNS": "120"}
    for name in ("episode.gif", "episode.mp4"):
        made = subprocess.run([*command, "--video", name], env=environment, capture_output=True, text=True)
        if "cannot be drawn" in made.stderr:
            pytest.skip("this machine has no EGL")
        assert made.returncode == 0
        scored = re.search(r"eval/return\s+\W\s+([\d.]+)", made.stdout)[1]
        assert f"An episode of return {float(scored):.1f} is in {name}" in made.stdout
        assert len(imageio.mimread(name, memtest=False)) > 1
    refused = subprocess.run([*command, "--video", "episode.avi"], env=environment, capture_output=True, text=True)
    assert refused.returncode == 2 and "A video is a .gif or .mp4 file" in refused.stderr


def test_checkpoint_of_another_task_is_refused(place, capsys):
    assert fit("--rollout", "null") == 0
    checkpoint = "runs/run/version_0/checkpoints/last.ckpt"
    content = torch.load(checkpoint, weights_only=True) | {"task": "walker2d"}
    torch.save(content, "walker.ckpt")
    assert main(["test", "--config", "run.yaml", *QUIET, "--ckpt_path", "walker.ckpt"]) == 2
    assert capsys.readouterr().err.strip() == "error: The checkpoint is of the task 'walker2d', the data of 'hopper'."
