"""Weights & Biases and MLflow, with the real packages where they are installed: `pip install -e '.[wandb,mlflow]'`."""

from pathlib import Path

import pytest
from conftest import ROOT
from tiny import QUIET

from dydiff.cli import main

CONFIGS = ROOT / "configs/logger"


def fit(logger):
    short = ["--trainer.max_epochs=1", "--rollout=null"]
    return main(["fit", "--config", "run.yaml", "--config", str(CONFIGS / f"{logger}.yaml"), *QUIET, *short])


def test_weights_and_biases_offline(place, monkeypatch, capsys):
    wandb = pytest.importorskip("wandb", reason="wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert fit("wandb") == 0
    summary = dict(wandb.run.summary)
    assert {"eval/score", "train/critic_loss"} <= set(summary) and wandb.run.project == "dydiff"
    wandb.finish()
    assert list(Path("wandb").glob("offline-run-*/*.wandb"))
    assert "WandbLogger" in capsys.readouterr().out and list(Path("runs/run/version_0").glob("events*"))


def test_mlflow(place, capsys):
    pytest.importorskip("mlflow", reason="mlflow is not installed")
    from mlflow.tracking import MlflowClient

    assert fit("mlflow") == 0
    client = MlflowClient("sqlite:///mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name("dydiff").experiment_id])
    assert {"eval/score", "train/critic_loss"} <= set(run.data.metrics)
    assert "MLFlowLogger" in capsys.readouterr().out and list(Path("runs/run/version_0").glob("events*"))
