"""The pretrained models of a run: which it needs, the folder of each, and the command that trains it."""

import glob
import hashlib
import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import torch
import yaml
from jsonargparse import ArgumentParser, Namespace
from jsonargparse.typing import NonNegativeInt, Path_fr
from lightning.pytorch.callbacks import ModelCheckpoint, ProgressBar

from dydiff.data.source import EpisodeSource
from dydiff.models.base import PretrainedModule, load_weights
from dydiff.rollout.base import Synthesizer
from dydiff.run.locks import exclusive_lock
from dydiff.run.loggers import is_default
from dydiff.run.settings import addressed, class_at, class_of, plain, shaping
from dydiff.utils.environment import computed_with
from dydiff.utils.errors import UserError, first_line
from dydiff.utils.files import replacing

# Arguments that were added after the first models were trained: at their default they do not change a model's key.
_ADDED_LATER = {"lr_schedule": "constant", "pad_windows": False}


# Of a data module: the dataset's content is in the key by its fingerprint, the model's horizon by the model's settings.
_KEYED_ELSEWHERE = ("source", "horizon")
_CARD = "model.yaml"


@dataclass
class PretrainedModel:
    """A model that a run needs trained first.

    Attributes:
        name: Its config's file name, without the ending.
        directory: Its folder, named by the model, the dataset, and the key of both.
        module: The module that its weights go into; ``None`` where a command trains the model by itself.
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
        """The checkpoint from which an interrupted training resumes."""
        return self.directory / "checkpoints" / "last.ckpt"

    @property
    def trained(self) -> bool:
        return self.weights.is_file()

    def lock(self) -> AbstractContextManager[None]:
        """Exclude other runs from training this model; wait while one of them does."""
        return exclusive_lock(self.directory, lambda: self.trained)


class PretrainedModels(list[PretrainedModel]):
    """The models that the synthesizers of one run name by the paths of their configs.

    Args:
        source: The run's dataset.
        source_config: Its config, for the commands that train the models.
        runs_dir: Folder of all runs.
        parse: Parses a command of ``fit`` without running it.
        seed: The seed that the models are trained with; ``None`` takes their configs' seeds.
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
        """Add the options of a command that may train models."""
        parser.add_argument("--runs_dir", default="runs", help="Folder of all runs and of the pretrained models.")
        parser.add_argument(
            "--pretrained_seed",
            "--parts_seed",  # its name in earlier versions and their saved configs
            type=NonNegativeInt | None,
            help="Seed of the pretrained models; null takes their configs' seeds, usually 0.",
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
        """The module of a config; its class must be one that the synthesizer's argument is annotated with."""
        model = self.add(path)
        assert model.config is not None
        trained = class_of(model.config.model)
        if wanted and not issubclass(trained, wanted):
            needed = " or ".join(each.__name__ for each in wanted)
            raise UserError(f"{argument} needs a {needed}, but {path} trains a {trained.__name__}.")
        if model.module is None:
            with torch.random.fork_rng():  # the agent's first weights are the same with and without these models
                model.module = _untrained_module(model.config, self.source, path)
        return model.module

    def add(self, path: Path) -> PretrainedModel:
        """The model of a config; its dataset is loaded and checked, its module is not made yet."""
        command = ("fit", "--config", str(path), *self._options)
        config = self._parse(list(command))
        directory = model_directory(path.stem, config, self.source, self.runs_dir)
        known = next((model for model in self if model.directory == directory), None)
        if known is None:
            known = PretrainedModel(path.stem, directory, None, command, config)
            self.append(known)
        return known

    def load(self) -> None:
        """Load the weights of all, once they are trained."""
        for model in self:
            assert model.module is not None
            load_weights(model.module, model.weights)


def make_source(config: Namespace) -> EpisodeSource:
    """The dataset source of a parsed config."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(EpisodeSource, "source", required=True)
    return parser.instantiate_classes(parser.parse_object({"source": plain(config)})).source


def check_pretraining(name: str, config: Namespace) -> None:
    """Refuse a command that could not train a model, or not in the folder where runs look for it.

    Args:
        name: Name of the model.
        config: Its parsed ``fit`` config.

    Raises:
        UserError: It has a rollout or a logger, or would keep no weights.
    """
    if config.rollout is not None:
        raise UserError("A model that is trained by itself takes no --rollout: that is for agents.")
    if not is_default(config.trainer.logger):
        raise UserError(
            "A pretrained model logs into its own folder, where runs look for it: leave trainer.logger out."
        )
    checkpoints = [each for each in config.trainer.callbacks or [] if issubclass(class_of(each), ModelCheckpoint)]
    if not any((each.get("init_args") or {}).get("monitor") for each in checkpoints):
        raise UserError(f"'{name}' would keep no best weights: its trainer needs a ModelCheckpoint with 'monitor'.")


def model_directory(name: str, config: Namespace, source: EpisodeSource, runs_dir: str) -> Path:
    """The folder of a pretrained model, keyed by the dataset's fingerprint and every setting that shapes the model.

    A folder of the same key holds the same model, whatever its name was when it was trained.

    Args:
        name: Name of the model.
        config: Its parsed ``fit`` config, defaults filled in.
        source: Its dataset; loaded and checked here.
        runs_dir: Folder of all runs.

    Raises:
        UserError: The dataset cannot be loaded or is invalid.
    """
    settings = plain(config)
    callbacks = [each for each in config.trainer.callbacks or [] if not issubclass(class_of(each), ProgressBar)]
    settings["trainer"]["callbacks"] = plain(callbacks)
    settings["trainer"]["fast_dev_run"] = False  # it only tries a training out
    shape = {
        "dataset": source.load().fingerprint,
        "seed": settings["seed_everything"],
        "model": settings["model"],
        "data": {key: value for key, value in settings["data"]["init_args"].items() if key not in _KEYED_ELSEWHERE},
        "trainer": shaping(settings)["trainer"],
    }
    for options in (shape["model"].get("init_args") or {}, shape["data"]):
        for argument, default in _ADDED_LATER.items():
            if options.get(argument, ...) == default:
                del options[argument]
    key = hashlib.sha256(json.dumps(addressed(shape), sort_keys=True, default=str).encode()).hexdigest()[:10]
    ending = f"{source.name}-{key}"
    for folder in (Path(runs_dir, "pretrained"), Path(runs_dir, "parts")):  # the latter in earlier versions
        if found := sorted(folder.glob(f"[!.]*-{glob.escape(ending)}")):
            return found[0]
    return Path(runs_dir, "pretrained", f"{name}-{ending}")


def write_card(model: PretrainedModel, config: Namespace, source: EpisodeSource, loss: float) -> None:
    """Write into a trained model's folder all that it takes to load it without its dataset.

    Args:
        model: The model, its weights published.
        config: Its parsed ``fit`` config.
        source: Its dataset.
        loss: Its best holdout loss.
    """
    dims = {"obs_dim": source.task.obs_dim, "act_dim": source.task.act_dim}
    init_args = {**(plain(config.model.init_args) or {}), **dims}
    card = {
        "class_path": config.model.class_path,
        "init_args": init_args,
        "dataset": {"name": source.name, "fingerprint": source.load().fingerprint, "env_id": source.task.env_id},
        "holdout_loss": loss,
        "computed_with": computed_with(),
    }
    with replacing(model.directory / _CARD) as part:
        part.write_text(yaml.safe_dump(card, sort_keys=False))


def read_card(folder: Path) -> tuple[type[PretrainedModule], dict[str, Any]]:
    """The class and the arguments of a trained model.

    Raises:
        UserError: The folder does not say them.
    """
    path = folder / _CARD
    try:
        if path.is_file():
            card = yaml.safe_load(path.read_text())
            module_class, init_args = class_at(card["class_path"]), dict(card["init_args"])
        else:  # of an earlier version, which left the sizes to the dataset
            path = folder / "config.yaml"
            config = yaml.safe_load(path.read_text())
            task = make_source(Namespace(config["data"]["init_args"]["source"])).task
            module_class = class_at(config["model"]["class_path"])
            init_args = {**config["model"]["init_args"], "obs_dim": task.obs_dim, "act_dim": task.act_dim}
    except UserError:
        raise
    except Exception as error:  # a file from elsewhere may hold anything
        raise UserError(
            f"{path} is missing or broken ({first_line(error)}): copy the whole folder of the model, or train it again."
        ) from None
    if not (isinstance(module_class, type) and issubclass(module_class, PretrainedModule)):
        raise UserError(f"{path} names {module_class.__name__}, which is not a pretrained model.")
    return module_class, init_args


def _untrained_module(config: Namespace, source: EpisodeSource, path: Path) -> PretrainedModule:
    module_class = class_of(config.model)
    if not issubclass(module_class, PretrainedModule):
        raise UserError(f"{path} trains a {module_class.__name__}, not a model that a synthesizer can use.")
    dims = {"obs_dim": source.task.obs_dim, "act_dim": source.task.act_dim}
    return module_class(**{**plain(config.model.init_args), **dims})
