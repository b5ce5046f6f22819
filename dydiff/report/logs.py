"""The logs of agents' runs: read from their folders, and kept in one file that a report can be made from again."""

import csv
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from dydiff.run.settings import shaping
from dydiff.utils.errors import UserError
from dydiff.utils.files import replacing

SUFFIX = ".jsonl"
_SCORE, _Q_MEAN = "eval/score", "train/q_mean"
_Curve = list[tuple[int, float]]


@dataclass(frozen=True)
class Log:
    """What a report takes from the logs of one run.

    Attributes:
        folder: The logs' folder.
        dataset: Name of the run's dataset.
        config: Its settings, nested as in its config.yaml.
        scores: Updates and normalised score at each evaluation.
        q_mean: Mean Q value of the last minibatches on record; ``None`` where there is none.
        minutes: From the first record to the last, without the time between an interruption and the resumption;
            ``None`` where the records have no times.
        computed_with: Versions and hardware; empty for runs of earlier versions.
    """

    folder: str
    dataset: str
    config: dict[str, Any]
    scores: _Curve
    q_mean: float | None
    minutes: float | None
    computed_with: dict[str, str] = field(default_factory=dict)


def read_logs(paths: Sequence[str]) -> list[Log]:
    """All agents' logs below some folders, and in files that ``write_logs`` wrote.

    Raises:
        UserError: One of the places is not there, none has an agent's run, or one cannot be read.
    """
    is_file = {Path(path): path.endswith(SUFFIX) for path in paths}
    for path in is_file:
        if not path.exists():
            raise UserError(f"There is no {path}.")
    logs = [log for path, kept in is_file.items() if kept for log in _read_file(path)]
    configs = sorted({config for path, kept in is_file.items() if not kept for config in path.rglob("config.yaml")})
    logs += [log for config in configs if (log := _read_folder(config.parent))]
    if not logs:
        raise UserError(f"No agent's run in {', '.join(paths)}: there is no config.yaml with logged scores next to it.")
    return logs


def write_logs(logs: Sequence[Log], path: Path) -> None:
    """Write logs to one file, a line of JSON each; folders in the working directory are relative to it."""
    with replacing(path) as part:
        lines = [json.dumps(asdict(log)).replace(f"{Path.cwd()}/", "") for log in logs]
        part.write_text("".join(f"{line}\n" for line in lines))


def _read_file(path: Path) -> list[Log]:
    try:
        return [Log(**json.loads(line)) for line in path.read_text().splitlines()]
    except (ValueError, TypeError):
        raise UserError(f"{path} is not a file of logs as a report writes it: name others.") from None


def _read_folder(folder: Path) -> Log | None:
    """The log in a folder; ``None`` where it is not that of an agent, or has no score yet."""
    try:
        config = yaml.safe_load((folder / "config.yaml").read_text())
        ours = isinstance(config, dict) and "updates_per_epoch" in config["data"]["init_args"]
    except (yaml.YAMLError, UnicodeDecodeError):
        raise UserError(f"{folder / 'config.yaml'} is broken: remove its folder, or name others.") from None
    except (KeyError, TypeError):
        return None
    if not ours:
        return None
    curves, minutes = _curves(folder)
    if not curves.get(_SCORE):
        return None
    hparams = folder / "hparams.yaml"
    facts = yaml.safe_load(hparams.read_text()) if hparams.is_file() else None
    if not isinstance(facts, dict) or "dataset" not in facts:
        raise UserError(f"{folder} has scores, but no hparams.yaml that names the dataset: remove it, or name others.")
    q_mean = curves[_Q_MEAN][-1][1] if curves.get(_Q_MEAN) else None
    computed_with = dict(facts.get("computed_with") or {})
    return Log(str(folder), str(facts["dataset"]), shaping(config), curves[_SCORE], q_mean, minutes, computed_with)


def _curves(folder: Path) -> tuple[dict[str, _Curve], float | None]:
    """Steps and values of scores and Q values, and minutes, from TensorBoard's records or from ``metrics.csv``."""
    if not any(folder.glob("events.out.tfevents.*")):
        return _csv_curves(folder), None
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    # A resumed run repeats the records since its checkpoint: the reader drops those before, and warns of it.
    logging.getLogger("tensorboard").setLevel(logging.ERROR)
    reader = EventAccumulator(str(folder), {"scalars": 0}).Reload()
    events = {tag: reader.Scalars(tag) for tag in reader.Tags()["scalars"]}
    curves = {
        tag: sorted((each.step, each.value) for each in events[tag]) for tag in events if tag in (_SCORE, _Q_MEAN)
    }
    return curves, _minutes(folder, sorted({event.wall_time for each in events.values() for event in each}))


def _csv_curves(folder: Path) -> dict[str, _Curve]:
    """From ``metrics.csv`` and the tables before each resumption; what several of them have counts once."""
    curves: dict[str, _Curve] = {_SCORE: [], _Q_MEAN: []}
    for table in [*sorted(folder.glob("metrics_*.csv")), *folder.glob("metrics.csv")]:
        with table.open(newline="") as file:
            rows = list(csv.DictReader(file))
        for tag, curve in curves.items():
            more = [(int(row["step"]), float(row[tag])) for row in rows if row.get(tag)]
            curves[tag] = [point for point in curve if not more or point[0] < more[0][0]] + more
    return curves


def _minutes(folder: Path, times: Sequence[float]) -> float | None:
    """Minutes between records. Each start and resumption of a run has a file of records with its time in the name."""
    starts = [int(path.name.split(".")[3]) for path in folder.glob("events.out.tfevents.*")]
    spans = [late - early for early, late in pairwise(times) if not any(early < start <= late for start in starts)]
    return sum(spans) / 60 if times else None
