"""The parts that a run needs trained first: which there are, under which key they lie, and how to get them trained."""

import glob
import hashlib
import json
import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import torch
from filelock import FileLock, Timeout
from jsonargparse import ArgumentParser, Namespace
from jsonargparse.typing import NonNegativeInt, Path_fr
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, ProgressBar
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only

from dydiff.data.source import EpisodeSource
from dydiff.models.base import PretrainedModule, load_weights
from dydiff.rollout.base import Synthesizer
from dydiff.run.loggers import is_default
from dydiff.run.settings import addressed, class_of, plain, shaping
from dydiff.utils.errors import UserError
from dydiff.utils.files import replacing

# Arguments that came after the first models were trained: at their default they do not change a model's key.
_ADDED_LATER = {"lr_schedule": "constant", "pad_windows": False}


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

        The ranks of one run are one: the first holds the part for all. The others follow it into the training, or past
        it where another run has done it meanwhile.
        """
        owner = self.directory.with_name(f".{self.directory.name}.owner")
        if getattr(rank_zero_only, "rank", 0):  # known from the environment, before any rank has met another
            self._follow(owner)
            yield
            return
        owner.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(owner.with_suffix(".lock"))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            rank_zero_info(f"Waiting for another run that trains {self.directory.name} ...")
            lock.acquire()
        try:
            with replacing(owner) as part:
                part.write_text(run_id())
            yield
        finally:
            owner.unlink(missing_ok=True)
            lock.release()

    def _follow(self, owner: Path) -> None:
        """Wait until the part is trained, or this run's first rank holds it."""
        parent, holder = os.getppid(), None
        while holder != run_id() and not self.trained:
            time.sleep(0.1)
            with suppress(FileNotFoundError):
                holder = owner.read_text()
            if os.getppid() != parent:
                raise UserError("The process that began this training has died.")


def run_id() -> str:
    """The same in all ranks of a run, whoever has launched them, and in no other run."""
    names = ("SLURM_JOB_ID", "SLURM_STEP_ID", "TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT")
    launched = "-".join(os.environ[name] for name in names if name in os.environ)
    return os.environ.setdefault("DYDIFF_RUN", launched or uuid.uuid4().hex)  # Lightning's children inherit it


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


def make_source(config: Namespace) -> EpisodeSource:
    """The dataset source of a parsed config."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(EpisodeSource, "source", required=True)
    return parser.instantiate_classes(parser.parse_object({"source": plain(config)})).source


def check_part(name: str, config: Namespace) -> None:
    """Refuse a command that could not train a part, or not where runs look for it.

    Args:
        name: Name of the part.
        config: Its parsed ``fit`` config.

    Raises:
        UserError: It has a rollout or a logger of its own, or would keep no weights.
    """
    if class_of(config.rollout) is not Callback:
        raise UserError("A model that is trained by itself takes no --rollout: that is for agents.")
    if not is_default(config.trainer.logger):
        raise UserError("A part logs into its own folder, where runs look for it: leave trainer.logger out.")
    checkpoints = [each for each in config.trainer.callbacks or [] if issubclass(class_of(each), ModelCheckpoint)]
    if not any((each.get("init_args") or {}).get("monitor") for each in checkpoints):
        raise UserError(f"'{name}' would keep no best weights: its trainer needs a ModelCheckpoint with 'monitor'.")


def part_directory(name: str, config: Namespace, source: EpisodeSource, runs_dir: str) -> Path:
    """The folder of a part, keyed by the dataset's fingerprint and every setting that shapes the part.

    A part of the same key is the same, whatever it was called when it was trained.

    Args:
        name: Name of the part.
        config: Its parsed ``fit`` config, defaults filled in.
        source: Its dataset; loaded and checked here.
        runs_dir: Folder of all runs.

    Raises:
        UserError: The dataset cannot be had or is not sound.
    """
    settings = plain(config)
    callbacks = [each for each in config.trainer.callbacks or [] if not issubclass(class_of(each), ProgressBar)]
    settings["trainer"]["callbacks"] = plain(callbacks)
    settings["trainer"]["fast_dev_run"] = False  # it only tries a training out
    shape = {
        "dataset": source.load().fingerprint,
        "seed": settings["seed_everything"],
        "model": settings["model"],
        "data": {key: value for key, value in settings["data"]["init_args"].items() if key != "source"},
        "trainer": shaping(settings)["trainer"],
    }
    for options in (shape["model"].get("init_args") or {}, shape["data"]):
        for argument, default in _ADDED_LATER.items():
            if options.get(argument, ...) == default:
                del options[argument]
    key = hashlib.sha256(json.dumps(addressed(shape), sort_keys=True, default=str).encode()).hexdigest()[:10]
    folder, ending = Path(runs_dir, "parts"), f"{source.name}-{key}"
    return min(folder.glob(f"[!.]*-{glob.escape(ending)}"), default=folder / f"{name}-{ending}")


def _untrained_module(config: Namespace, source: EpisodeSource, path: Path) -> PretrainedModule:
    module_class = class_of(config.model)
    if not issubclass(module_class, PretrainedModule):
        raise UserError(f"{path} trains a {module_class.__name__}, not a model that a synthesizer can use.")
    dims = {"obs_dim": source.task.obs_dim, "act_dim": source.task.act_dim}
    return module_class(**{**plain(config.model.init_args), **dims})
