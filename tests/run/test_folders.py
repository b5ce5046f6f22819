"""The folders of runs: which one a new run takes, which one a command resumes or scores."""

import os
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from lightning.pytorch.utilities import rank_zero_only
from tiny import write_yaml

from dydiff.run import folders
from dydiff.run.folders import alone, claim_version, find_last, find_to_score, throwaway
from dydiff.utils.errors import UserError

RUN = {
    "seed_everything": 0,
    "model": {"class_path": "dydiff.agents.TD3BC", "init_args": {"gamma": 0.9, "sample_eval_actions": False}},
    "data": {"source": {"mujoco2_contacts": True, "path": "a.hdf5"}, "batch_size": 20, "num_eval_episodes": 2},
    "trainer": {"max_epochs": 3},
}


def saved(folder, version, settings=RUN, checkpoint=True):
    """The files of a run that :func:`find_last` looks at."""
    place = folder / f"version_{version}"
    write_yaml(place / "config.yaml", settings)
    if checkpoint:
        (place / "checkpoints").mkdir()
        (place / "checkpoints/last.ckpt").touch()
    return str(place / "checkpoints/last.ckpt")


def test_runs_that_start_together_do_not_share_a_folder(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        versions = list(pool.map(lambda _: claim_version(tmp_path / "run"), range(40)))
    assert sorted(versions) == list(range(40))


def test_the_first_free_version_is_taken(tmp_path):
    for taken in ("version_0", "version_2"):
        (tmp_path / taken).mkdir()
    assert [claim_version(tmp_path) for _ in range(3)] == [1, 3, 4]


def test_a_folder_is_held_by_one_at_a_time(tmp_path):
    refused = pytest.raises(UserError, match=f"Another process trains in {tmp_path}")
    with alone(tmp_path), refused, alone(tmp_path, seconds=0):
        pass
    with pytest.raises(ZeroDivisionError), alone(tmp_path, seconds=0):
        raise ZeroDivisionError
    with alone(tmp_path, seconds=0):  # an error has released it
        pass


def test_a_process_that_is_about_to_end_is_waited_for(tmp_path):
    held, waited = threading.Event(), []

    def holding():
        with alone(tmp_path):
            held.set()
            time.sleep(0.3)
            waited.append("released")

    with ThreadPoolExecutor(1) as pool:
        pool.submit(holding)
        assert held.wait(10)
        with alone(tmp_path, seconds=10):
            assert waited == ["released"]


def test_the_ranks_of_a_run_do_not_exclude_each_other(tmp_path, monkeypatch):
    with alone(tmp_path):
        monkeypatch.setattr(rank_zero_only, "rank", 1)
        with alone(tmp_path, seconds=0):
            pass


def test_the_newest_run_is_resumed_by_number_not_by_name(tmp_path):
    for version in (2, 9):
        saved(tmp_path, version)
    newest = saved(tmp_path, 10)
    saved(tmp_path, 11, checkpoint=False)
    (tmp_path / "version_old/checkpoints").mkdir(parents=True)
    (tmp_path / "version_old/checkpoints/last.ckpt").touch()
    assert find_last(tmp_path, RUN) == find_to_score(tmp_path, RUN) == (10, newest)


def test_where_nothing_was_saved_nothing_is_found(tmp_path):
    saved(tmp_path, 0, checkpoint=False)
    for find in (find_last, find_to_score):
        assert find(tmp_path, RUN) == find(tmp_path / "nowhere", RUN) == (None, None)


def test_an_earlier_run_with_the_commands_settings_is_preferred_to_a_newer_one(tmp_path):
    same = saved(tmp_path, 0)
    saved(tmp_path, 1, RUN | {"seed_everything": 1})
    assert find_last(tmp_path, RUN) == find_to_score(tmp_path, RUN) == (0, same)


@pytest.mark.parametrize("key", ["max_epochs", "min_epochs", "max_steps", "min_steps", "max_time"])
def test_a_run_may_be_resumed_for_longer(tmp_path, key):
    path = saved(tmp_path, 0, RUN | {"trainer": {key: 3}})
    assert find_last(tmp_path, RUN | {"trainer": {key: 9}}) == (0, path)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"seed_everything": 1}, "seed_everything 0, this command says 1"),
        ({"trainer": {"gradient_clip_val": 1.0}}, "trainer.gradient_clip_val 2.0, this command says 1.0"),
        ({"data": {"batch_size": 10}}, "data.batch_size 20, this command says 10"),
    ],
)
def test_a_run_with_other_settings_is_not_resumed(tmp_path, settings, said):
    saved(tmp_path, 3, RUN | {"trainer": {"gradient_clip_val": 2.0}})
    saved(tmp_path, 1, RUN | {"seed_everything": 7})
    with pytest.raises(UserError) as refused:
        find_last(tmp_path, RUN | settings)
    assert str(refused.value).startswith(f"The run in {tmp_path / 'version_3'} was made with {said}: give this one")


@pytest.mark.parametrize(
    "settings",
    [
        {"data": RUN["data"] | {"num_eval_episodes": 9, "batch_size": 1}},
        {"trainer": {"max_epochs": 9}},
        {"data": {"source": RUN["data"]["source"] | {"mujoco2_contacts": False}}},
        {"model": {**RUN["model"], "init_args": {"gamma": 0.9, "sample_eval_actions": True}}},
    ],
)
def test_an_agent_may_be_scored_otherwise_than_in_its_training(tmp_path, settings):
    path = saved(tmp_path, 0)
    assert find_to_score(tmp_path, RUN | settings) == (0, path)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"seed_everything": 1}, "seed_everything 0, this command says 1"),
        ({"data": {"source": {"path": "b.hdf5"}}}, "data.source.path a.hdf5, this command says b.hdf5"),
        ({"model": {**RUN["model"], "init_args": {"gamma": 0.8}}}, "model.gamma 0.9, this command says 0.8"),
    ],
)
def test_another_agent_than_the_commands_is_not_scored(tmp_path, settings, said):
    saved(tmp_path, 0)
    with pytest.raises(UserError, match=said):
        find_to_score(tmp_path, RUN | settings)


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00", b"a: [", b"a: {b: c: d}"])
def test_a_run_whose_settings_cannot_be_read_is_named(tmp_path, content):
    saved(tmp_path, 0)
    config = tmp_path / "version_0/config.yaml"
    config.unlink() if content is None else config.write_bytes(content)
    with pytest.raises(UserError, match=r"version_0/config\.yaml is missing or broken: name the checkpoint"):
        find_last(tmp_path, RUN)


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """The folder of temporary files, empty, and a run's own id."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.setattr(folders, "run_id", lambda: "this-run")
    return tmp_path / "temporary"


@pytest.mark.parametrize("with_models", [True, False])
def test_a_trial_has_the_models_of_its_folder_and_leaves_them(tmp_path, temporary, with_models):
    runs = tmp_path / "runs"
    for model in ("pretrained/den-x-1", "parts/rew-x-2", "pretrained/.lock-x-3"):
        (runs / model).mkdir(parents=True)
        (runs / model / "weights.pt").write_text(model)
    (runs / "pretrained/dyn-x-4").mkdir()  # not trained yet
    with pytest.raises(ZeroDivisionError), throwaway(str(runs), with_models) as folder:
        found = {path.name: (path / "weights.pt").read_text() for path in Path(folder, "pretrained").iterdir()}
        assert found == ({"den-x-1": "pretrained/den-x-1", "rew-x-2": "parts/rew-x-2"} if with_models else {})
        assert Path(folder).parent == temporary
        raise ZeroDivisionError
    assert not any(temporary.iterdir())
    assert (runs / "pretrained/den-x-1/weights.pt").read_text() == "pretrained/den-x-1"


def test_the_models_of_a_trial_share_its_folder(tmp_path, temporary, monkeypatch):
    """Its own model trainings, and its other ranks, neither make another folder nor remove it."""
    with throwaway("runs", with_models=True) as folder:
        with throwaway(folder, with_models=False) as inner:
            assert inner == folder
        assert os.path.isdir(folder)
        monkeypatch.setattr(rank_zero_only, "rank", 1)
        with throwaway("runs", with_models=True) as other_rank:
            assert other_rank == folder
        assert os.path.isdir(folder)
        monkeypatch.setattr(rank_zero_only, "rank", 0)
    assert not os.path.exists(folder)
