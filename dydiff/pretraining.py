"""The parts that a run needs trained first: which there are, under which key they lie, and how to get them trained."""

import hashlib
import importlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType
from typing import Any, get_args, get_type_hints

import torch
from filelock import FileLock, Timeout
from jsonargparse import ArgumentParser, Namespace
from jsonargparse.typing import NonNegativeInt, Path_fr
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only

from dydiff.data.episodes import EpisodeSource
from dydiff.errors import UserError
from dydiff.models.pretrained import PretrainedModule, load_weights
from dydiff.rollout.base import Synthesizer

# Settings of the trainer that say where and how it runs, not what comes out.
MACHINE_KEYS = {
    "accelerator",
    "devices",
    "num_nodes",
    "strategy",
    "logger",
    "default_root_dir",
    "enable_progress_bar",
    "enable_checkpointing",
    "enable_model_summary",
    "log_every_n_steps",
}


@dataclass
class Part:
    """A pretrained part.

    Attributes:
        name: Its config's file name, without the ending.
        directory: Where it lies: named by the part, the dataset, and the key of both.
        module: The module that its weights go into; ``None`` where the part is itself what a command trains.
        command: The arguments that train it.
        config: Their parsed form.
    """

    name: str
    directory: Path
    module: PretrainedModule | None = None
    command: tuple[str, ...] = ()
    config: Namespace | None = None

    @property
    def weights(self) -> Path:
        """The published weights; they exist once training has ended."""
        return self.directory / "weights.pt"

    @property
    def interrupted(self) -> Path:
        """The checkpoint from which a training that was interrupted goes on."""
        return self.directory / "checkpoints" / "last.ckpt"

    @property
    def trained(self) -> bool:
        return self.weights.is_file()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Wait while another run trains this part; a run that dies lets go.

        The ranks of one run are one: the first holds the part for all.
        """
        if getattr(rank_zero_only, "rank", 0):  # known from the environment, before any rank has met another
            yield
            return
        self.directory.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.directory.with_name(f".{self.directory.name}.lock"))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            rank_zero_info(f"Waiting for another run that trains {self.directory.name} ...")
            lock.acquire()
        try:
            yield
        finally:
            lock.release()


class Parts(list[Part]):
    """The parts that the synthesizers of one run name by the paths of their configs.

    Args:
        source: The run's dataset.
        source_config: Its config, for the commands that train the parts.
        runs_dir: Folder of all runs.
        parse: Parses a command of ``fit`` without running it.
        seed: The seed that the parts are trained with; ``None`` leaves them their configs' own.
        options: Further options of those commands.
    """

    def __init__(
        self,
        source: EpisodeSource,
        source_config: Namespace,
        runs_dir: str,
        parse: Callable[[list[str]], Namespace],
        seed: int | None = None,
        options: tuple[str, ...] = (),
    ) -> None:
        super().__init__()
        self.source = source
        self.runs_dir = runs_dir
        self._parse = parse
        self._options = ("--runs_dir", runs_dir, "--data.init_args.source", json.dumps(plain(source_config)), *options)
        if seed is not None:
            self._options += ("--seed_everything", str(seed))

    @staticmethod
    def add_arguments(parser: ArgumentParser) -> None:
        """What a command that may train parts takes."""
        parser.add_argument("--runs_dir", default="runs", help="Folder of all runs and of the parts they share.")
        parser.add_argument(
            "--parts_seed",
            type=NonNegativeInt | None,
            help="Seed of the pretrained parts; null: their configs' own, usually 0.",
        )

    def make_synthesizer(self, synthesizer_class: type[Synthesizer], *args: Any, **kwargs: Any) -> Synthesizer:
        """A synthesizer with modules, still untrained, in the place of config paths."""
        hints = get_type_hints(synthesizer_class.__init__)
        for argument, value in kwargs.items():
            if isinstance(value, Path_fr):
                wanted = tuple(each for each in get_args(hints.get(argument)) if each is not Path_fr)
                kwargs[argument] = self._module(Path(value.absolute), argument, wanted)
        return synthesizer_class(*args, **kwargs)

    def _module(self, path: Path, argument: str, wanted: tuple[type, ...]) -> PretrainedModule:
        """The part of a config, whose class must be one of those that the synthesizer's argument is annotated with."""
        part = self.add(path)
        assert part.config is not None
        trained = class_of(part.config.model)
        if wanted and not issubclass(trained, wanted):
            needed = " or ".join(each.__name__ for each in wanted)
            raise UserError(f"{argument} needs a {needed}, but {path} trains a {trained.__name__}.")
        if part.module is None:
            with torch.random.fork_rng():  # the agent's first weights are the same with and without parts
                part.module = _untrained_module(part.config, self.source, path)
        return part.module

    def add(self, path: Path) -> Part:
        """The part of a config; its dataset is loaded and checked, its module is not made yet."""
        command = ("fit", "--config", str(path), *self._options)
        config = self._parse(list(command))
        directory = part_directory(path.stem, config, self.source, self.runs_dir)
        known = next((part for part in self if part.directory == directory), None)
        if known is None:
            known = Part(path.stem, directory, None, command, config)
            self.append(known)
        return known

    def train_and_load(self, run: Callable[[list[str]], object]) -> dict[str, float]:
        """Train by ``run(command)`` what no earlier run has trained, and load all weights.

        Returns:
            Seconds of each part that had to be trained.
        """
        seconds, missing = {}, [part for part in self if not part.trained]
        for part in self:
            if not part.trained:
                rank_zero_info(f"Training {part.name}, {missing.index(part) + 1} of {len(missing)} ...")
                begin = time.perf_counter()
                run(list(part.command))
                seconds[part.name] = time.perf_counter() - begin
            assert part.module is not None
            load_weights(part.module, part.weights)
        return seconds


def config_paths(settings: Any) -> Iterator[Path]:
    """The paths of parts' configs anywhere in parsed settings, which ``--config`` itself is not."""
    if isinstance(settings, Path_fr):
        yield Path(settings.absolute)
    elif isinstance(settings, (Namespace, dict)):
        for key, value in (vars(settings) if isinstance(settings, Namespace) else settings).items():
            if key != "config":
                yield from config_paths(value)


def part_directory(name: str, config: Namespace, source: EpisodeSource, runs_dir: str) -> Path:
    """The folder of a part, keyed by the dataset's fingerprint and every setting that shapes the part.

    Args:
        name: Name of the part.
        config: Its parsed ``fit`` config, defaults filled in.
        source: Its dataset; loaded and checked here.
        runs_dir: Folder of all runs.

    Raises:
        UserError: The dataset cannot be had or is not sound.
    """
    settings = plain(config)
    shaping = [each for each in config.trainer.callbacks or [] if not issubclass(class_of(each), ProgressBar)]
    settings["trainer"]["callbacks"] = plain(shaping)
    shape = {
        "dataset": source.load().fingerprint,
        "seed": settings["seed_everything"],
        "model": settings["model"],
        "data": {key: value for key, value in settings["data"]["init_args"].items() if key != "source"},
        "trainer": {key: value for key, value in settings["trainer"].items() if key not in MACHINE_KEYS},
    }
    key = hashlib.sha256(json.dumps(shape, sort_keys=True, default=str).encode()).hexdigest()[:10]
    return Path(runs_dir) / "parts" / f"{name}-{source.name}-{key}"


def _untrained_module(config: Namespace, source: EpisodeSource, path: Path) -> PretrainedModule:
    module_class = class_of(config.model)
    if not issubclass(module_class, PretrainedModule):
        raise UserError(f"{path} trains a {module_class.__name__}, not a model that a synthesizer can use.")
    dims = {"obs_dim": source.task.obs_dim, "act_dim": source.task.act_dim}
    return module_class(**{**plain(config.model.init_args), **dims})


def class_of(config: Namespace) -> type:
    """The class that a config's ``class_path`` names."""
    module_name, _, class_name = str(config.class_path).rpartition(".")
    return getattr(importlib.import_module(module_name), class_name)


def make_absolute(config: Namespace) -> None:
    """Replace relative paths of parts, so that a config saved elsewhere still finds them."""
    for key, value in vars(config).items():
        if isinstance(value, Path_fr):
            config[key] = Path_fr(value.absolute)
        elif isinstance(value, Namespace):
            make_absolute(value)


def plain(value: Any) -> Any:
    """Nested dicts and lists of a parsed config, without the bookkeeping of where it was read; functions by path."""
    if isinstance(value, Namespace):
        value = vars(value)
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items() if not key.startswith("__")}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, FunctionType):
        return f"{value.__module__}.{value.__qualname__}"
    return value
