"""What the log folders of runs say: what was trained on what, with which settings, and its scores."""

import csv
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml

from dydiff.errors import UserError
from dydiff.settings import comparable

BASE = "Base"
SCORE, Q_MEAN = "eval/score", "train/q_mean"
_NAMES_OF_DATA = (".dataset", ".path")


@dataclass(frozen=True)
class Run:
    """One training of an agent.

    Attributes:
        folder: Its logs.
        dataset: Name of its dataset.
        agent: Class name of its agent.
        method: The kind of data: ``Base`` for none, else the synthesizer's class and the filter's initial, as in
            ``DyDiff-S``.
        setting: The settings that some runs of its agent and method differ in on one dataset.
        unusual: Those of them that a run is called by: not those that have the value of most of the agent's runs.
        seed: Its seed.
        steps: Updates at each evaluation.
        scores: Normalised score at each evaluation.
        planned: Updates that it was to make until its last evaluation.
        q_mean: Mean Q value of the last minibatches on record; ``None`` where the log has none.
        minutes: From its first record to its last; ``None`` where the log has no times.
        settings: All its settings, flat.
        num_last: Evaluations that the score at the end is the mean of.
    """

    folder: Path
    dataset: str
    agent: str
    method: str
    setting: dict[str, Any]
    unusual: frozenset[str]
    seed: int
    steps: tuple[int, ...]
    scores: tuple[float, ...]
    planned: int
    q_mean: float | None
    minutes: float | None
    settings: dict[str, Any]
    num_last: int = 1

    @property
    def finished(self) -> bool:
        return bool(self.steps) and self.steps[-1] >= self.planned

    @property
    def last(self) -> float:
        """The score of the last evaluation."""
        return self.scores[-1]

    @property
    def end(self) -> float:
        """The score at the end: the mean of the last ``num_last`` evaluations."""
        return fmean(self.scores[-self.num_last :])

    @property
    def best(self) -> float:
        """The highest score of all evaluations: picked in hindsight, hence optimistic."""
        return max(self.scores)

    @property
    def label(self) -> str:
        """The method, and what is unusual in this run of it."""
        return ", ".join([self.method, *(f"{key}={self.setting[key]}" for key in self.setting if key in self.unusual)])


def read_runs(paths: Sequence[str], num_last: int = 1) -> list[Run]:
    """All agents' runs in some folders, with what sets them apart.

    Of several runs of the same settings and seed, the longest counts.

    Args:
        paths: The folders.
        num_last: Evaluations that the score at the end is the mean of.

    Raises:
        UserError: No run there.
    """
    configs = sorted({config for path in paths for config in Path(path).rglob("config.yaml")})
    runs = [run for config in configs if (run := _read(config.parent)) is not None]
    if not runs:
        raise UserError(f"No agent's run in {', '.join(paths)}: there is no config.yaml with logged scores beside it.")
    groups: dict[tuple[str, str], dict[str, list[Run]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        groups[run.agent, run.method][run.dataset].append(run)
    varied = {group: set().union(*map(_varied, datasets.values())) for group, datasets in groups.items()}
    names = _short(set().union(*varied.values()))
    usual = {agent: _usual([run for run in runs if run.agent == agent]) for agent, _ in groups}
    told = []
    for run in runs:
        keys = sorted(varied[run.agent, run.method])
        setting = {names[key]: run.settings.get(key) for key in keys}
        unusual = frozenset(names[key] for key in keys if run.settings.get(key) != usual[run.agent].get(key, ...))
        told.append(replace(run, setting=setting, unusual=unusual, num_last=num_last))
    longest: dict[tuple[Any, ...], Run] = {}
    for run in told:
        key = run.dataset, run.agent, run.label, run.seed
        if key not in longest or run.steps[-1] >= longest[key].steps[-1]:
            longest[key] = run
    return list(longest.values())


def _varied(runs: Sequence[Run]) -> set[str]:
    """Keys of the settings that are not the same in all runs."""
    keys = {key for run in runs for key in run.settings}
    return {key for key in keys if len({str(run.settings.get(key)) for run in runs}) > 1}


def _usual(runs: Sequence[Run]) -> dict[str, Any]:
    """The value of each setting that more runs have than any other; none where two are as many."""
    usual = {}
    for key in {key for run in runs for key in run.settings}:
        values = [run.settings[key] for run in runs if key in run.settings]
        counts = Counter(map(str, values)).most_common(2)
        if len(counts) == 1 or counts[0][1] > counts[1][1]:
            usual[key] = next(value for value in values if str(value) == counts[0][0])
    return usual


def _short(keys: Iterable[str]) -> dict[str, str]:
    """The shortest ending of each key that no other has."""
    keys = sorted(keys)
    named = {}
    for key in keys:
        parts = key.split(".")
        endings = [".".join(parts[-count:]) for count in range(1, len(parts) + 1)]
        alone = [end for end in endings if sum(other == end or other.endswith(f".{end}") for other in keys) == 1]
        named[key] = (alone or [key])[0]
    return named


def _read(folder: Path) -> Run | None:
    """The run of a log folder; ``None`` where it is not that of an agent, or has no score yet."""
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
    if not curves.get(SCORE):
        return None
    steps, scores = zip(*curves[SCORE], strict=True)
    q_values = curves.get(Q_MEAN)
    if not (folder / "hparams.yaml").is_file():
        raise UserError(f"{folder} has scores, but no hparams.yaml that names the dataset: remove it, or name others.")
    facts = yaml.safe_load((folder / "hparams.yaml").read_text())
    return Run(
        folder,
        str(facts["dataset"]),
        _class_name(config["model"]),
        _method(config["rollout"]),
        {},
        frozenset(),
        int(config["seed_everything"]),
        steps,
        scores,
        _planned(config),
        q_values[-1][1] if q_values else None,
        minutes,
        _settings(config),
    )


def _planned(config: dict[str, Any]) -> int:
    """Updates until the last evaluation that was to come."""
    epochs, every = config["trainer"]["max_epochs"], config["trainer"].get("check_val_every_n_epoch") or 1
    return epochs // every * every * config["data"]["init_args"]["updates_per_epoch"]


def _method(rollout: dict[str, Any]) -> str:
    synthesizer = rollout.get("init_args", {}).get("synthesizer")
    if synthesizer is None:
        return BASE
    filter = rollout["init_args"].get("filter")
    return _class_name(synthesizer) + (f"-{_class_name(filter)[0]}" if filter else "")


def _class_name(config: dict[str, Any]) -> str:
    return str(config["class_path"]).rpartition(".")[2]


def _settings(config: dict[str, Any]) -> dict[str, Any]:
    """What runs of one label share: flat settings without the seed, and without what the labels tell already."""
    return {
        key: value
        for key, value in comparable(config).items()
        if key != "seed_everything"
        and not key.endswith("class_path")
        and not (key.startswith("data.source") and key.endswith(_NAMES_OF_DATA))
    }


def _curves(folder: Path) -> tuple[dict[str, list[tuple[int, float]]], float | None]:
    """Steps and values of scores and Q values, and minutes, from TensorBoard's records or from ``metrics.csv``."""
    table = folder / "metrics.csv"
    if table.is_file():
        with table.open(newline="") as file:
            rows = list(csv.DictReader(file))
        curves = {tag: [(int(row["step"]), float(row[tag])) for row in rows if row.get(tag)] for tag in (SCORE, Q_MEAN)}
        return curves, None
    if not any(folder.glob("events.out.tfevents.*")):
        return {}, None
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    reader = EventAccumulator(str(folder), {"scalars": 0}).Reload()
    tags = reader.Tags()["scalars"]
    curves = {
        tag: [(event.step, event.value) for event in reader.Scalars(tag)] for tag in tags if tag in (SCORE, Q_MEAN)
    }
    times = [reader.Scalars(tag)[end].wall_time for tag in tags for end in (0, -1)]
    return curves, (max(times) - min(times)) / 60 if times else None
