"""The loggers of a run: those that write files write into its folder, all others are taken as they are."""

import csv
import time

import pytest
from jsonargparse import Namespace
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dydiff.run.loggers import is_default, listed, loggers_of, without_files


class Remote(Logger):
    """A logger that writes no files."""

    name = version = "remote"

    def log_metrics(self, metrics, step=None):
        pass

    def log_hyperparams(self, params):
        pass


def entry(kind, **arguments):
    return Namespace(class_path=kind, init_args=Namespace(**arguments))


CSV = entry("lightning.pytorch.loggers.CSVLogger", save_dir="elsewhere", name="other", prefix="mine")
BOARD = entry("lightning.pytorch.loggers.TensorBoardLogger", save_dir="elsewhere", sub_dir="below")
REMOTE = entry("test_loggers.Remote")


def made(*entries):
    """What the trainer makes of a config."""
    kinds = {id(CSV): CSVLogger, id(BOARD): TensorBoardLogger}
    return [kinds[id(each)]("elsewhere") if id(each) in kinds else Remote() for each in entries]


def kinds_of(loggers):
    return [type(logger) for logger in loggers]


@pytest.mark.parametrize("configs", [None, True])
def test_a_run_that_names_no_logger_has_tensorboards(tmp_path, configs):
    folder = tmp_path / "runs/name/version_3"
    (logger,) = loggers_of(configs, (), folder, None)
    assert is_default(configs) and type(logger) is TensorBoardLogger and logger.log_dir == str(folder)
    logger.log_hyperparams({"lr": 0.1})
    logger.finalize("success")
    assert EventAccumulator(str(folder)).Reload().Tags()["scalars"] == []  # no hp_metric


@pytest.mark.parametrize(
    ("entries", "kinds"),
    [
        ([CSV], [CSVLogger]),
        ([CSV, BOARD], [CSVLogger, TensorBoardLogger]),
        ([REMOTE, BOARD], [TensorBoardLogger, Remote]),
        ([REMOTE], [TensorBoardLogger, Remote]),
    ],
)
def test_all_files_are_in_the_runs_folder(tmp_path, monkeypatch, entries, kinds):
    """The first logger writes files, for Lightning takes the run's folder from it."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs/name/version_3"
    loggers = loggers_of(entries, made(*entries), folder, None)
    assert kinds_of(loggers) == kinds
    assert [logger.log_dir for logger in loggers if not isinstance(logger, Remote)] == [str(folder)] * (
        len(kinds) - kinds.count(Remote)
    )
    for logger in loggers:
        logger.log_metrics({"loss": 1.0}, 0)
        logger.finalize("success")
    assert {path.parent for path in tmp_path.rglob("*") if path.is_file()} == {folder}


def test_a_logger_keeps_its_other_arguments_and_a_remote_one_is_not_made_again(tmp_path):
    (logger,) = loggers_of(CSV, made(CSV), tmp_path / "name/version_0", None)
    logger.log_metrics({"loss": 1.0}, 0)
    logger.save()
    assert "mine-loss" in (tmp_path / "name/version_0/metrics.csv").read_text()
    remote = Remote()
    assert loggers_of([REMOTE], [remote], tmp_path / "name/version_1", None)[1] is remote
    board = Namespace(class_path=BOARD.class_path, init_args=None, dict_kwargs={"max_queue": 7})
    (logger,) = loggers_of([board], made(BOARD), tmp_path / "name/version_2", None)
    assert logger._kwargs["max_queue"] == 7


def logged(folder):
    return {event.step: event.value for event in EventAccumulator(str(folder)).Reload().Scalars("loss")}


def test_a_resumed_run_forgets_what_it_will_log_again(tmp_path):
    folder = tmp_path / "name/version_0"
    for purge_step, steps in ((None, (1, 2, 3, 4)), (3, (3,))):
        (logger,) = loggers_of(None, (), folder, purge_step)
        for step in steps:
            logger.log_metrics({"loss": float(step)}, step)
        logger.finalize("success")
        time.sleep(1.1)  # the files of a run are in the order of the seconds in their names
    assert logged(folder) == {1: 1.0, 2: 2.0, 3: 3.0}


def test_each_resumption_keeps_the_tables_before_it(tmp_path):
    folder = tmp_path / "name/version_0"
    for value in range(3):
        (logger,) = loggers_of(CSV, made(CSV), folder, None)
        logger.log_metrics({"loss": float(value)}, value)
        logger.finalize("success")
    tables = sorted(folder.glob("*.csv"))
    assert [path.name for path in tables] == ["metrics.csv", "metrics_000.csv", "metrics_001.csv"]
    values = [float(next(csv.DictReader(path.read_text().splitlines()))["mine-loss"]) for path in tables]
    assert values == [2.0, 0.0, 1.0]


def test_another_rank_does_not_move_the_table(tmp_path, monkeypatch):
    table = tmp_path / "name/version_0/metrics.csv"
    table.parent.mkdir(parents=True)
    table.write_text("step\n1\n")
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    loggers_of(CSV, made(CSV), table.parent, None)
    assert table.read_text() == "step\n1\n"


@pytest.mark.parametrize(
    ("configs", "names", "remaining"),
    [
        (None, [], False),
        (True, [], False),
        (False, [], False),
        (CSV, [CSV], False),
        (REMOTE, [REMOTE], [REMOTE]),
        ([CSV, REMOTE, BOARD], [CSV, REMOTE, BOARD], [REMOTE]),
    ],
)
def test_where_there_is_no_run_only_loggers_without_files_remain(configs, names, remaining):
    assert listed(configs) == names and without_files(configs) == remaining
