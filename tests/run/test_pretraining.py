"""The keys of pretrained models."""

from pathlib import Path

import pytest
from jsonargparse import Namespace

from dydiff.cli.lightning_cli import parse
from dydiff.data.episodes import Episodes
from dydiff.data.tasks import DATASETS, HOPPER, RemoteDataset
from dydiff.run.pretraining import make_source, model_directory

# Computed by version 0.1.0, before its modules moved, for a dataset whose fingerprint is 64 zeros.
KEYS = {"den": "1160490f71", "dyn": "c3d7bf703d", "rew": "50be09afed"}


@pytest.mark.parametrize("name", KEYS)
def test_keys_of_pretrained_models_never_change(place, monkeypatch, name):
    """Nor do they depend on which source reads the file: what users have trained is found again."""
    remote = RemoteDataset(HOPPER, Path("hopper.hdf5").absolute().as_uri())
    monkeypatch.setitem(DATASETS, "hopper", remote)
    monkeypatch.setattr(Episodes, "fingerprint", "0" * 64)
    monkeypatch.setenv("D4RL_DATASET_DIR", str(place / "cache"))
    for source in ("{class_path: LocalSource, init_args: {path: hopper.hdf5}}",
                   "{class_path: D4RLSource, init_args: {dataset: hopper}}"):  # fmt: skip
        config = parse(["fit", "--config", f"pretrain/{name}.yaml", "--data.init_args.source", source])
        config.trainer = Namespace(
            max_epochs=2, callbacks=None, fast_dev_run=False
        )  # without defaults that are Lightning's
        folder = model_directory(name, config, make_source(config.data.init_args.source), "runs")
        assert folder == Path(f"runs/pretrained/{name}-hopper-{KEYS[name]}")
