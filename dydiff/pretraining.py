"""The parts that a run needs trained first: which there are, where they lie, and under which key."""

import hashlib
import importlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from dydiff.data.episodes import EpisodeSource
from dydiff.errors import UserError
from dydiff.models.pretrained import PretrainedModule

# What a part is trained on or shown with does not change what it is.
_MACHINE_KEYS = (
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
)


@dataclass
class Part:
    """A pretrained part of a run.

    Attributes:
        name: Its config's file name, without the ending.
        directory: Where it lies: named by the part, the dataset, and the key of both.
        config_path: The config that trains it.
        module: The module that its weights go into; ``None`` where the part is itself what a command trains.
    """

    name: str
    directory: Path
    config_path: Path
    module: PretrainedModule | None = None

    @property
    def weights(self) -> Path:
        """The published weights; they exist once training has ended."""
        return self.directory / "weights.pt"

    @property
    def trained(self) -> bool:
        return self.weights.is_file()


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
    shape = {
        "dataset": source.load().fingerprint,
        "seed": settings["seed_everything"],
        "model": settings["model"],
        "data": {key: value for key, value in settings["data"]["init_args"].items() if key != "source"},
        "trainer": {key: value for key, value in settings["trainer"].items() if key not in _MACHINE_KEYS},
    }
    key = hashlib.sha256(json.dumps(shape, sort_keys=True, default=str).encode()).hexdigest()[:10]
    return Path(runs_dir) / "parts" / f"{name}-{source.name}-{key}"


def untrained_module(config: Namespace, source: EpisodeSource, config_path: Path) -> PretrainedModule:
    """The module of a part's config, with the dimensions of the dataset's task.

    Raises:
        UserError: The config is not that of a part.
    """
    module_name, _, class_name = str(config.model.class_path).rpartition(".")
    module_class = getattr(importlib.import_module(module_name), class_name)
    if not issubclass(module_class, PretrainedModule):
        raise UserError(f"{config_path} trains a {class_name}, not a model that a synthesizer can use.")
    arguments = {**config.model.init_args.as_dict(), "obs_dim": source.task.obs_dim, "act_dim": source.task.act_dim}
    return module_class(**arguments)


def plain(value: Any) -> Any:
    """Nested dicts and lists of a parsed config, without the bookkeeping of where it was read."""
    if isinstance(value, Namespace):
        value = vars(value)
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items() if not key.startswith("__")}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value
