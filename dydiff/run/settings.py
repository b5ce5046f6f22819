"""Parsed settings as plain values: what they are, and which of them shape the result of a run."""

import importlib
import inspect
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FunctionType
from typing import Any

from jsonargparse import Namespace
from jsonargparse.typing import Path_fr

from dydiff.utils.errors import UserError

# Settings of the trainer that decide where and how it runs, not its result.
_MACHINE_KEYS = {
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
# The same for a run: its place, what it resumes from, and how its updates are computed.
_PLACE_KEYS = {"config", "runs_dir", "name", "out", "ckpt_path", "weights_only", "compile", "threads"}
_NO_ROLLOUT = "lightning.pytorch.callbacks.Callback"  # earlier versions wrote it for null
_FILES = (".yaml", ".yml", ".hdf5", ".npz")
_PLAIN = (bool, int, float, str, type(None))


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


def shaping(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The plain settings of a command without those that only name a folder or a machine."""
    kept = {key: value for key, value in settings.items() if key not in _PLACE_KEYS}
    if "trainer" in kept:
        kept["trainer"] = {key: value for key, value in kept["trainer"].items() if key not in _MACHINE_KEYS}
    return kept


def comparable(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that shape a run, except its callbacks, by their keys without ``init_args``.

    An argument that one of our classes got after the run was made has its default value. Classes are named by where
    they are defined. Files are named without their folders: the place of a checkout or a dataset does not matter.
    """
    kept = shaping(settings)
    if "parts_seed" in kept:
        kept["pretrained_seed"] = kept.pop("parts_seed")
    if "rollout" in kept and (kept["rollout"] or {}).get("class_path") in (None, _NO_ROLLOUT):
        kept["rollout"] = {"class_path": None}
    return {key: value for key, value in _flat(kept) if not key.startswith("trainer.callbacks")}


def difference(made_with: Mapping[str, Any], says: Mapping[str, Any]) -> str | None:
    """Describe the first setting that differs between a saved run and this command, or return None.

    Args:
        made_with: Settings of the saved run.
        says: Settings of the command; a key that only one of them has does not count.
    """
    for key in made_with:
        if key in says and _defined_at(str(made_with[key])) != _defined_at(str(says[key])):
            return f"{key} {made_with[key]}, this command says {says[key]}"
    return None


def check_settings(checkpoint: dict[str, Any], class_path: str, settings: dict[str, Any]) -> None:
    """Refuse to resume with other settings than the checkpoint's.

    Args:
        checkpoint: The checkpoint to resume.
        class_path: Class of the model that resumes.
        settings: Its arguments, as plain values.

    Raises:
        UserError: The class or a setting differs.
    """
    made_with = checkpoint.get("hyper_parameters", {})
    made_by = made_with.get("_class_path", class_path)
    if address(made_by) != address(class_path):
        raise UserError(f"The checkpoint was made by {made_by}, this command trains a {class_path}.")
    for key, value in made_with.items():
        if key not in settings and key not in ("obs_dim", "act_dim") and not key.startswith("_"):
            raise UserError(
                f"The checkpoint was made with model.{key} {_listed(value)}, an option that {class_path} no longer "
                "has: resume it with the version that made it, or start a new run."
            )
    for key, value in settings.items():
        linked = key in ("obs_dim", "act_dim")
        if key in made_with and not linked and _listed(made_with[key]) != value:
            raise UserError(
                f"The checkpoint was made with model.{key} {_listed(made_with[key])}, this command says {value}: "
                "resume with the checkpoint's own settings, or start a new run."
            )


def _listed(value: Any) -> Any:
    """Tuples as lists: a config knows only these."""
    return list(value) if isinstance(value, tuple) else value


def _flat(settings: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(settings, dict):
        if str(settings.get("class_path")).startswith("dydiff."):
            settings = {**settings, "init_args": _defaults(settings["class_path"]) | (settings.get("init_args") or {})}
        for key, value in settings.items():
            if key == "class_path" and value is not None:
                value = address(str(value))
            yield from _flat(value, prefix if key == "init_args" else f"{prefix}.{key}".lstrip("."))
    else:
        is_file = isinstance(settings, (str, Path_fr)) and str(settings).endswith(_FILES)
        yield prefix, Path(str(settings)).name if is_file else settings


def _defaults(class_path: str) -> dict[str, Any]:
    """Plain defaults of one of our classes: a run older than a setting was made with what is its default now."""
    try:
        arguments = arguments_of(class_path)
    except (ImportError, AttributeError, ValueError):  # renamed since
        return {}
    return {name: argument.default for name, argument in arguments.items() if isinstance(argument.default, _PLAIN)}


def arguments_of(class_path: str) -> dict[str, inspect.Parameter]:
    """All arguments of a class by name, those that it passes on to its bases included.

    Raises:
        ImportError, AttributeError: There is no such class.
    """
    found: dict[str, inspect.Parameter] = {}
    for each in reversed(class_at(class_path).__mro__[:-1]):
        if "__init__" in vars(each):
            found.update(inspect.signature(vars(each)["__init__"]).parameters)
    return {name: found[name] for name in sorted(found) if name not in ("self", "args", "kwargs")}


def class_of(config: Namespace) -> type:
    """The class that a config's ``class_path`` names."""
    return class_at(str(config.class_path))


def class_at(path: str) -> type:
    """The class at an import path.

    Raises:
        ImportError, AttributeError, ValueError: There is no such class.
    """
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def address(path: str) -> str:
    """The module and name where one of our classes is defined; any other path stays as it is.

    Settings are compared and hashed by it, so that ``dydiff.agents.TD3BC`` and ``dydiff.agents.td3bc.TD3BC`` are one.
    Callbacks keep the path that a config gives them: hashes must not change.
    """
    return _defined_at(path) if path.startswith("dydiff.") else path


def _defined_at(path: str) -> str:
    if not path.startswith(("dydiff.", "callbacks.")):  # no other module is imported to compare names
        return path
    try:
        found = class_at(path)
    except (ImportError, AttributeError, ValueError):
        return path
    return f"{found.__module__}.{found.__qualname__}"


def addressed(settings: Any) -> Any:
    """Plain settings with the :func:`address` of each class."""
    if isinstance(settings, list):
        return [addressed(value) for value in settings]
    if not isinstance(settings, dict):
        return settings
    return {key: address(str(value)) if key == "class_path" else addressed(value) for key, value in settings.items()}


def config_paths(settings: Any) -> Iterator[Path]:
    """The paths of models' configs anywhere in parsed settings, which ``--config`` itself is not."""
    if isinstance(settings, Path_fr):
        yield Path(settings.absolute)
    elif isinstance(settings, (Namespace, dict)):
        for key, value in (vars(settings) if isinstance(settings, Namespace) else settings).items():
            if key != "config":
                yield from config_paths(value)


def make_absolute(config: Any) -> None:
    """Make paths of models' configs absolute, so that a config that is saved elsewhere still finds them."""
    if isinstance(config, (Namespace, dict)):
        for key, value in (vars(config) if isinstance(config, Namespace) else config).items():
            if isinstance(value, Path_fr):
                config[key] = Path_fr(os.path.normpath(value.absolute))
            else:
                make_absolute(value)
