"""Configs fitted to a dataset, and the run that they make."""

from pathlib import Path

import pytest
import yaml
from tiny import QUIET

from dydiff.cli import main
from dydiff.cli.lightning_cli import parse

SHORT = [*QUIET, "--trainer.max_epochs=1", "--trainer.check_val_every_n_epoch=1", "--data.updates_per_epoch=50"]


def new(folder, path="tiny.hdf5", *options):
    return main(["new", folder, "--source", "LocalSource", "--source.path", path, *options])


@pytest.mark.parametrize(("lengths", "horizon"), [((30, 14, 15, 16, 13), 12), ((200, 180), 32), ((5, 3, 4), 4)])
def test_windows_are_as_long_as_half_of_the_episodes(tmp_path, monkeypatch, write_dataset, capsys, lengths, horizon):
    monkeypatch.chdir(tmp_path)
    write_dataset(lengths)
    assert new("mine") == 0
    said = capsys.readouterr().out
    assert f"{sum(lengths)} transitions in {len(lengths)} episodes of {min(lengths)} to {max(lengths)} steps" in said
    assert yaml.safe_load(Path("mine/denoiser.yaml").read_text())["model"]["init_args"]["horizon"] == horizon
    config = parse(["fit", "--config", "mine/mine.yaml"])
    assert config.rollout.init_args.synthesizer.init_args.rollout_length == horizon
    assert config.name == "mine" and config.data.init_args.updates_per_epoch == 1000


def test_the_folder_is_a_run_from_anywhere(tmp_path, monkeypatch, write_dataset, capsys):
    monkeypatch.chdir(tmp_path)
    write_dataset((30, 40, 20, 35))
    assert new("mine", "tiny.hdf5", "--agent", "CQL") == 0
    assert "python -m dydiff fit --config mine/mine.yaml" in capsys.readouterr().out
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert main(["fit", "--config", "../mine/mine.yaml", "--trainer.fast_dev_run=true", *SHORT]) == 0
    assert main(["fit", "--config", "../mine/mine.yaml", "--rollout", "null", "--compile=false", *SHORT]) == 0
    assert yaml.safe_load(Path("runs/mine/version_0/config.yaml").read_text())["model"]["class_path"].endswith("CQL")


def test_a_folder_that_exists_is_left_as_it_is(tmp_path, monkeypatch, write_dataset, capsys):
    monkeypatch.chdir(tmp_path)
    write_dataset()
    Path("mine").mkdir()
    assert new("mine") == 2
    assert capsys.readouterr().err == "error: mine exists: name a new folder, or delete it.\n"
    assert new("other", "nothing.hdf5") == 2
    error = capsys.readouterr().err
    assert "nothing.hdf5" in error and error.count("\n") == 1
    assert sorted(path.name for path in Path().iterdir()) == ["mine", "tiny.hdf5"] and not list(Path("mine").iterdir())
