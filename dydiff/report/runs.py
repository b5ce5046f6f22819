"""Agents' runs as the logs describe them: method, dataset, settings and scores."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from dydiff.report.logs import Log, read_logs
from dydiff.run.settings import address, comparable

BASE = "Base"
_INITIALS = {"Hardmax": "H", "Softmax": "S"}
_NAMES_OF_DATA = (".dataset", ".path")


@dataclass(frozen=True, eq=False)
class Run:
    """One training of an agent.

    Attributes:
        log: Its log.
        agent: Class name of its agent.
        method: The kind of data: ``Base`` for none, else the synthesizer's class and the filter's, of which the paper
            has the initials, as in ``DyDiff-S``.
        planned: Updates that it was to make until its last evaluation; 0 where steps or hours end it, not epochs: then
            it counts as finished.
        settings: All its settings, flat.
        setting: The settings that some runs of its agent and method differ in on one dataset.
        unusual: Those of them that a run is called by: not those that have the value of most of the agent's runs.
        num_last: Evaluations that the score at the end is the mean of.
    """

    log: Log
    agent: str
    method: str
    planned: int
    settings: dict[str, Any]
    setting: dict[str, Any]
    unusual: frozenset[str]
    num_last: int = 1

    @property
    def dataset(self) -> str:
        return self.log.dataset

    @property
    def seed(self) -> int:
        return int(self.log.config["seed_everything"])

    @property
    def steps(self) -> list[int]:
        """Updates at each evaluation."""
        return [step for step, _ in self.log.scores]

    @property
    def scores(self) -> list[float]:
        """Normalised score at each evaluation."""
        return [score for _, score in self.log.scores]

    @property
    def finished(self) -> bool:
        return self.steps[-1] >= self.planned

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
    """All agents' runs in some places, with what sets them apart; duplicates keep the last path's copy.

    Args:
        paths: Folders of runs, and files of logs.
        num_last: Evaluations that the score at the end is the mean of.

    Raises:
        UserError: No run there, or one that cannot be read.
    """
    runs = list({_identity(run): run for run in _runs(read_logs(paths))}.values())
    groups: dict[tuple[str, str], dict[str, list[Run]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        groups[run.agent, run.method][run.dataset].append(run)
    # Settings that all methods have set a method apart even where all its runs share them.
    common = {
        agent: {key for key in _varied_somewhere(runs, agent) if not key.startswith("rollout.")}
        for agent in {run.agent for run in runs}
    }
    varied = {
        (agent, method): common[agent].union(*map(_varied, datasets.values()))
        for (agent, method), datasets in groups.items()
    }
    names = _short(set().union(*varied.values()))
    usual = {agent: _usual([run for run in runs if run.agent == agent]) for agent, _ in groups}
    described = []
    for run in runs:
        keys = sorted(varied[run.agent, run.method])
        setting = {names[key]: run.settings.get(key) for key in keys}
        unusual = frozenset(names[key] for key in keys if run.settings.get(key) != usual[run.agent].get(key, ...))
        described.append(replace(run, setting=setting, unusual=unusual, num_last=num_last))
    return described


def longest(runs: Sequence[Run]) -> dict[Run, list[Run]]:
    """Of several runs with the same settings and seed the longest, the last of equal ones, with the others."""
    same: dict[tuple[Any, ...], list[Run]] = defaultdict(list)
    for run in runs:
        same[run.dataset, run.agent, run.label, run.seed].append(run)
    found = {}
    for members in same.values():
        best = max(reversed(members), key=lambda run: run.steps[-1])
        found[best] = [run for run in members if run is not best]
    return found


def _varied(runs: Sequence[Run]) -> set[str]:
    """Keys of the settings that are not the same in all runs."""
    keys = {key for run in runs for key in run.settings}
    return {key for key in keys if len({str(run.settings.get(key)) for run in runs}) > 1}


def _varied_somewhere(runs: Sequence[Run], agent: str) -> set[str]:
    """Keys of the settings that are not the same in all runs of an agent on one of the datasets."""
    datasets: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        if run.agent == agent:
            datasets[run.dataset].append(run)
    return set().union(*map(_varied, datasets.values()))


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


def _runs(logs: Sequence[Log]) -> Iterator[Run]:
    """The runs of logs, before they are set apart: classes have their names, longer where two share one."""
    paths = {path for log in logs for path in _class_paths(log.config) if path}
    names = {"": "", **_short(paths)}
    for log in logs:
        agent, synthesizer, filter = (names[path] for path in _class_paths(log.config))
        kind = _INITIALS.get(filter, filter)
        method = synthesizer + (f"-{kind}" if kind else "") if synthesizer else BASE
        yield Run(log, agent, method, _planned(log.config), _settings(log.config), {}, frozenset())


def _identity(run: Run) -> str:
    """A text that is equal for the logs of a run and for their copy in a file of logs."""
    place = Path(run.log.folder).parts[-2:]
    return json.dumps(
        [place, run.dataset, run.agent, run.method, run.seed, run.settings, run.log.scores], sort_keys=True
    )


def _class_paths(config: dict[str, Any]) -> tuple[str, str, str]:
    """Of agent, synthesizer and filter; empty where there is none."""
    kind = (config["rollout"] or {}).get("init_args", {})
    found = [
        (each or {}).get("class_path", "") for each in (config["model"], kind.get("synthesizer"), kind.get("filter"))
    ]
    return address(str(found[0])), address(str(found[1])), address(str(found[2]))


def _planned(config: dict[str, Any]) -> int:
    """Updates until the last evaluation that was to come; 0 where other than epochs end the run."""
    trainer = config["trainer"]
    epochs, every = trainer["max_epochs"], trainer.get("check_val_every_n_epoch") or 1
    if epochs in (None, -1) or trainer.get("max_steps", -1) != -1 or trainer.get("max_time") is not None:
        return 0
    return epochs // every * every * config["data"]["init_args"]["updates_per_epoch"]


def _settings(config: dict[str, Any]) -> dict[str, Any]:
    """What runs of one label share: flat settings without the seed, and without what is in the labels."""
    return {
        key: value
        for key, value in comparable(config).items()
        if key != "seed_everything"
        and not key.endswith("class_path")
        and not (key.startswith("data.source") and key.endswith(_NAMES_OF_DATA))
    }
