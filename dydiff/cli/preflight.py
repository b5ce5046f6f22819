"""Settings that Lightning, torch or jsonargparse would refuse late or with a traceback, refused at once in one line."""

import errno
import sys
from collections.abc import Iterator
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch.callbacks import EarlyStopping, GradientAccumulationScheduler, ModelCheckpoint, Timer

from dydiff.agents.base import Agent
from dydiff.agents.evaluation import SCORES
from dydiff.models.base import PretrainedModule
from dydiff.run.loggers import listed
from dydiff.run.settings import class_of
from dydiff.utils.console import pip_install
from dydiff.utils.errors import UserError, did_you_mean

MAX_SEED = 2**32 - 1
"""The largest seed that NumPy takes."""

_PRECISIONS = {None, 32, 64, "32", "64", "32-true", "64-true"}
_LOGGER_PACKAGES = {"WandbLogger": ("wandb",), "MLFlowLogger": ("mlflow", "mlflow_skinny")}
_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_OURS = ("dydiff", "callbacks")


def check_command(config: Namespace, subcommand: str) -> None:
    """Refuse the parsed settings of ``fit``, ``validate`` or ``test`` that cannot work.

    Raises:
        UserError: One cannot.
    """
    check_name(config.name)
    check_seed("seed_everything", config.seed_everything)
    check_seed("pretrained_seed", config.pretrained_seed)
    if config.trainer.barebones:
        raise UserError("trainer.barebones switches off the logs and checkpoints that every run has: leave it out.")
    if config.trainer.fast_dev_run and config.trainer.num_nodes > 1:
        raise UserError("fast_dev_run writes to a folder of one machine: try the run out without trainer.num_nodes.")
    check_loggers(config.trainer.logger)
    model = class_of(config.model)
    if issubclass(model, Agent):
        _check_agent(config, model.__name__)
    elif issubclass(model, PretrainedModule):
        _check_pretrained(config, model.__name__)
    if subcommand == "fit":
        check_monitors(config, model)


def check_name(name: str | None) -> None:
    """Refuse a name whose folder would not be in ``runs_dir``, or be that of the pretrained models.

    Raises:
        UserError: It is such a name.
    """
    parts = Path(name or "").parts
    if Path(name or "").is_absolute() or ".." in parts or parts[:1] in (("parts",), ("pretrained",)):
        raise UserError(f"--name {name} is no folder of runs in runs_dir: give a name, or change --runs_dir.")


def check_seed(name: str, seed: Any) -> None:
    """Refuse a seed that no random number generator takes; ``True`` and ``None`` stand for none.

    Raises:
        UserError: It is negative, too large or not a whole number.
    """
    if seed is True or seed is None:
        return
    if seed is False or not 0 <= seed <= MAX_SEED:
        raise UserError(f"{name} must be from 0 to {MAX_SEED}, not {str(seed).lower()}.")


def check_loggers(configs: Any) -> None:
    """Refuse a logger whose package is not installed.

    Raises:
        UserError: One is not.
    """
    for entry in listed(configs):
        packages = _LOGGER_PACKAGES.get(class_of(entry).__name__, ())
        if packages and not any(map(find_spec, packages)):
            raise UserError(f"{class_of(entry).__name__} needs the package {packages[0]}: {pip_install(packages[0])}.")


def _check_agent(config: Namespace, name: str) -> None:
    if config.trainer.precision not in _PRECISIONS:
        raise UserError(
            f"{name} trains and acts in 32-true or 64-true, not trainer.precision {config.trainer.precision}."
        )
    data, interval = config.data.init_args, config.trainer.val_check_interval
    steps = data.get("updates_per_epoch", 0) // data.get("updates_per_step", 1)
    if type(interval) is int and 0 < steps < interval and config.trainer.check_val_every_n_epoch is not None:
        raise UserError(f"An epoch has {steps} steps, fewer than trainer.val_check_interval {interval}.")
    for kind in _callback_classes(config):
        if issubclass(kind, GradientAccumulationScheduler):
            raise UserError(f"{name} makes its gradient steps itself: leave GradientAccumulationScheduler out.")
        _check_callback(kind)


def _check_pretrained(config: Namespace, name: str) -> None:
    trainer = config.trainer
    every, last = trainer.check_val_every_n_epoch, trainer.max_epochs
    if trainer.limit_val_batches == 0 or (every and last and 0 < last < every):
        setting = "limit_val_batches 0" if trainer.limit_val_batches == 0 else f"check_val_every_n_epoch {every}"
        raise UserError(f"{name} would keep no best weights: trainer.{setting} leaves no evaluation on the holdout.")
    for kind in _callback_classes(config):
        _check_callback(kind)


def _check_callback(kind: type) -> None:
    if issubclass(kind, Timer):
        raise UserError("Timer cannot be set by a config: --trainer.max_time 00:12:00:00 does the same.")


def check_monitors(config: Namespace, model: type) -> None:
    """Refuse a callback that waits for a metric which nothing logs.

    The names in ``train/`` and ``rollout/`` are known only once agent and rollout run. Custom classes may log anything:
    with them, only a name that is close to a known one is refused.

    Raises:
        UserError: A ``monitor`` is misspelt.
    """
    if not issubclass(model, (Agent, PretrainedModule)):
        return
    known = SCORES if issubclass(model, Agent) else model.holdout_names
    rollout = () if config.rollout is None else (class_of(config.rollout),)
    closed = all(_is_ours(kind) for kind in (model, *_callback_classes(config), *rollout))
    for entry in config.trainer.callbacks or []:
        monitor = (entry.get("init_args") or {}).get("monitor")
        if not issubclass(class_of(entry), (EarlyStopping, ModelCheckpoint)) or monitor in (None, "epoch", "step"):
            continue
        if monitor in known or str(monitor).startswith(("train/", "rollout/", "seconds/")):
            continue
        if closed or get_close_matches(str(monitor), known, cutoff=0.9):
            suggestion = did_you_mean(str(monitor), known)
            raise UserError(
                f"{class_of(entry).__name__} monitors '{monitor}', which {model.__name__} does not log.{suggestion}"
            )


def _callback_classes(config: Namespace) -> list[type]:
    return [class_of(entry) for entry in config.trainer.callbacks or []]


def _is_ours(kind: type) -> bool:
    return _root(kind.__module__) in (*_OURS, "lightning")


def library_error(error: BaseException) -> UserError | None:
    """What a library raises because of a setting, in one line; ``None`` where the mistake may be in code.

    A setting is the cause if a library raises the error while objects are made or directly when our command line
    calls it, if no custom code takes part, and if the training has not begun.
    """
    if str(error).startswith("Early stopping conditioned on metric"):  # the metric is known only once it is logged
        return _one_line(error)
    links = list(_chain(error))
    if full := next((link for link in links if isinstance(link, OSError) and link.errno in _DISK_FULL), None):
        return UserError(
            f"The disk is full, or a limit of it is reached ({full.strerror}). Free some space; what was saved before "
            "is intact: resume with --ckpt_path last."
        )
    frames = [frame for link in links for frame in _frames(link.__traceback__)]
    kinds = [kind for _, kind in frames if kind != "standard"]
    modules = [module for module, kind in frames if kind == "ours"]
    if not modules or kinds[-1] != "library" or "user" in kinds:
        return None
    if any(module == "lightning.pytorch.loops.training_epoch_loop" for module, _ in frames):
        return None
    making = any(module.startswith("jsonargparse.") for module, _ in frames)
    if not making and not modules[-1].startswith(("dydiff.cli", "dydiff.run")):
        return None
    # jsonargparse wraps what a constructor raises in a list of all types that it has tried
    return _one_line(next((link for link in links if not str(link).startswith("Does not validate")), error))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An exception, then what it was raised from, back to the first."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _one_line(error: BaseException) -> UserError:
    text = " ".join(str(error).split()) or "no message"
    return UserError(f"{type(error).__name__}: {text if len(text) <= 300 else f'{text[:300]} ...'}")


def _frames(traceback: TracebackType | None) -> Iterator[tuple[str, str]]:
    """The module of each frame, and whose it is: ours, a library's, the standard library's, or the user's."""
    while traceback is not None:
        frame = traceback.tb_frame
        module = str(frame.f_globals.get("__name__", ""))
        path = Path(frame.f_code.co_filename)
        if _root(module) in _OURS or module == "__main__":
            kind = "ours"
        elif {"site-packages", "dist-packages"} & set(path.parts):
            kind = "library"
        else:
            kind = "standard" if _root(module) in sys.stdlib_module_names else "user"
        yield module, kind
        traceback = traceback.tb_next


def _root(module: str) -> str:
    return module.partition(".")[0]
