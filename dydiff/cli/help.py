"""The help of ``fit``, ``validate`` and ``test``: what there is to choose first, Lightning's options on request."""

import argparse
import inspect
import re
from collections.abc import Iterator
from textwrap import wrap
from types import ModuleType
from typing import Any

import dydiff.agents
import dydiff.data
import dydiff.models
import dydiff.rollout
from dydiff.agents.base import Agent
from dydiff.cli.parser import Parser
from dydiff.data.source import EpisodeSource
from dydiff.models.base import PretrainedModule
from dydiff.rollout.base import Synthesizer
from dydiff.rollout.filters import Filter

_WIDTH, _COLUMN = 120, 36
_KINDS: tuple[tuple[str, ModuleType, type, str], ...] = (
    ("Agents", dydiff.agents, Agent, "--model NAME"),
    ("Datasets", dydiff.data, EpisodeSource, "--data.source NAME, or a file of configs/dataset"),
    ("Synthetic data", dydiff.rollout, Synthesizer, "--rollout FILE of configs/rollout; null: the dataset alone"),
    ("Filters of synthetic data", dydiff.rollout, Filter, "--rollout.filter NAME; null keeps all"),
    ("Pretrained models", dydiff.models, PretrainedModule, "trained when they are needed; configs/model"),
)
_TRAINER = {
    "max_epochs": "When the training ends. An epoch of an agent has data.updates_per_epoch updates.",
    "check_val_every_n_epoch": "Epochs from one evaluation to the next.",
    "accelerator": "cpu, gpu or auto.",
    "devices": "How many, or which; several want --config configs/ddp.yaml.",
    "logger": "Loggers besides TensorBoard's: CSVLogger, WandbLogger, MLFlowLogger.",
    "callbacks": "The list of callbacks, replaced whole; callbacks+ adds one.",
    "fast_dev_run": "One batch of each stage; nothing is kept.",
    "enable_progress_bar": "Show progress bars.",
}
_NOT_LISTED = {"help", "help_all", "model", "data", "rollout", "trainer", "weights_only", "print_shtab", "print_config"}


class RunParser(Parser):
    """A parser whose ``--help`` fits a screen or two once :meth:`list_choices` is called."""

    _lists_choices = False

    def list_choices(self) -> None:
        """Let ``--help`` list what there is to choose, and ``--help_all`` every option."""
        self._lists_choices = True  # jsonargparse makes parsers of this class for parts of the options, too
        self.add_argument("--help_all", action=_HelpAll, help="List every option, Lightning's Trainer's included.")

    def format_help(self, *formatter: Any) -> str:
        return "\n".join(self._lines()) if self._lists_choices else super().format_help(*formatter)

    def format_all(self) -> str:
        """The help of every option."""
        return super().format_help()

    def _lines(self) -> Iterator[str]:
        yield f"usage: {self.prog} --config FILE [--config FILE ...] [--OPTION VALUE ...]"
        yield from ("", *wrap(str(self.description), _WIDTH))
        for title, room, base, option in _KINDS:
            yield from ("", f"{title} ({option})")
            for kind in classes_of(room, base):
                yield from _entry(kind.__name__, (inspect.getdoc(kind) or "").splitlines()[0])
        helps = {action.dest: action.help or "" for action in self._actions}
        helps["ckpt_path"] = "A checkpoint's file, or last: the newest of the run of this name and settings."
        own = [name for name in helps if "." not in name and name not in _NOT_LISTED | {"==SUPPRESS=="}]
        yield from ("", "Options")
        for name in own:
            yield from _entry(f"--{name}", helps[name])
        yield from ("", "Training (Lightning's Trainer)")
        for name, text in _TRAINER.items():
            yield from _entry(f"--trainer.{name}", text)
        yield ""
        yield "Options of what you choose: --model.alpha 5, --data.batch_size 64, --rollout.real_ratio 0.5,"
        yield "--rollout.synthesizer.rollout_length 16; --model.help TD3BC, --rollout.help SyntheticRollout list them."
        yield f"All settings with their values: --print_config. Every option: {self.prog} --help_all."
        yield ""


class _HelpAll(argparse.Action):
    """Print the help of every option, and exit."""

    def __init__(self, option_strings: list[str], dest: str, help: str | None = None, **_: Any) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, default=argparse.SUPPRESS, help=help)

    def __call__(self, parser: Any, *_: Any) -> None:
        print(parser.format_all())
        parser.exit()


def classes_of(room: ModuleType, base: type) -> list[type]:
    """The classes of a kind that a room re-exports, those that are no base classes, by name."""
    found = [getattr(room, name) for name in sorted(room.__all__)]
    return [each for each in found if inspect.isclass(each) and issubclass(each, base) and not inspect.isabstract(each)]


def _entry(name: str, text: str) -> list[str]:
    """A name and its text, which continues in lines of its own."""
    text = re.sub(r":\w+:`~?(?:[\w.]+\.)?(\w+)`", r"\1", text).replace("``", "").replace("%%", "%")
    first, *rest = wrap(text, _WIDTH - _COLUMN) or [""]
    lines = [f"  {name}".ljust(_COLUMN - 1) + f" {first}", *(" " * _COLUMN + line for line in rest)]
    return [line.rstrip() for line in lines]
