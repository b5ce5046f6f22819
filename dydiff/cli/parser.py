"""A parser whose errors are one line and suggest the right key."""

import importlib
import inspect
import os
import pkgutil
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from jsonargparse import ActionConfigFile, Namespace  # type: ignore[attr-defined]
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.cli import LightningArgumentParser

from dydiff.cli.preflight import library_error
from dydiff.run.loggers import FILE_LOGGERS
from dydiff.run.settings import arguments_of, class_at, make_absolute
from dydiff.utils.errors import UserError, did_you_mean

# An option that gives one of these as a whole replaces the earlier value: settings of another kind must not remain.
_REPLACED = ("rollout", "data.init_args.source", "source", "trainer.callbacks", "trainer.logger", "trainer.plugins")
_LISTS = ("trainer.callbacks", "trainer.logger", "trainer.plugins")
_PRINT = "--print_config"
_BOOKKEEPING = re.compile(
    r"Does not validate|Subtypes:|Errors:|Given value|Expected a <class 'NoneType'>|Problem with given class|Parser key"
    r"|Expected a path but [{\[]"  # the value is settings, not the name of a file
)


class Parser(LightningArgumentParser):
    """Raises an error of one line instead of printing the usage of three hundred options."""

    def error(self, message: str, ex: Exception | None = None) -> None:  # type: ignore[override]
        if not self.exit_on_error:  # jsonargparse makes an attempt and expects its exception
            super().error(message, ex)
        raise UserError(explain(message, self._keys())) from ex

    def parse_args(self, args: Sequence[str] | None = None, *rest: Any, **options: Any) -> Namespace:  # type: ignore[override]
        if not self.exit_on_error:  # inside jsonargparse, which passes a nested null as the text "None"
            args = args and [f"{each.removesuffix('=None')}=null" if each.endswith("=None") else each for each in args]
            return super().parse_args(args, *rest, **options)
        given = list(sys.argv[1:] if args is None else args)
        prints = [each for each in given if each.partition("=")[0] == _PRINT]
        try:
            config = super().parse_args([each for each in given if each not in prints], *rest, **options)
        except UserError:
            if prints:  # settings without a required one can be printed, too
                super().parse_args(given, *rest, **options)
            raise
        for key, replacing in _replacing(given).items():
            if key in config:
                config[key] = None
                config = super().parse_args(replacing, config)
        if prints:
            make_absolute(config)
            super().parse_args(prints, config)  # prints and exits
        return config

    def add_class_arguments(self, class_type: type, *args: Any, **options: Any) -> list[str]:
        """Adds the arguments of a class; jsonargparse calls it for every class that a setting names.

        A logger that writes files requires a ``save_dir``. A run replaces it by its folder, so it has a default here.
        """
        added = super().add_class_arguments(class_type, *args, **options)
        if "save_dir" in added and inspect.isclass(class_type) and issubclass(class_type, FILE_LOGGERS):
            self.set_defaults(save_dir=".")
        return added

    def _keys(self) -> list[str]:
        """All keys of this parser."""
        return [action.dest for action in self._actions if action.dest.split(".")[-1] != "help"]


class ConfigFile(ActionConfigFile):
    """A file whose lists of classes replace those of earlier files; jsonargparse merges them by position."""

    def __call__(self, parser: Any, config: Any, path: Any, option: str | None = None) -> None:
        earlier = {key: config[key] for key in _LISTS if isinstance(config.get(key), list)}
        alone = config.clone()
        for key in earlier:
            alone[key] = None
        try:
            super().__call__(parser, config, path, option)
        except UserError as error:
            raise UserError(f"{path}: {error}" if os.path.isfile(path) else str(error)) from error
        if any(config[key] and len(config[key]) == len(value) for key, value in earlier.items()):
            super().__call__(parser, alone, path, option)
            for key in earlier:
                if alone[key] is not None:
                    config[key] = alone[key]


def _replacing(args: Sequence[str]) -> dict[str, list[str]]:
    """For each key that an option replaces as a whole, that option and the later ones of its settings."""
    found: dict[str, list[str]] = {}
    for position, argument in enumerate(args):
        option, equals, _ = argument.partition("=")
        name = option.removeprefix("--") if option.startswith("--") else ""
        name = re.sub(r"^data\.source", "data.init_args.source", name)
        given = [argument] if equals else list(args[position : position + 2])
        for key in _REPLACED:
            if name == key:
                found[key] = given
            elif key in found and name.startswith((f"{key}.", f"{key}+")):
                found[key] += given
    return found


def explain(message: str, known_keys: Iterable[str] = ()) -> str:
    """A parser's message in one line.

    Args:
        message: The message of jsonargparse, of many lines where a class has a wrong argument.
        known_keys: All keys of the command, to suggest from.
    """
    group = r"(?:Group '([^']+)' )?does not accept option '([^']+)'"
    if unknown := re.search(rf"{group}|unrecognized arguments: -*([\w.]+)", message):
        return _unknown_key(unknown[3] or ".".join(filter(None, (unknown[1], unknown[2]))), known_keys)
    where = ".".join(re.findall(r'Parser key "([^"]+)"', message))
    if where == "seed_everything":
        return "seed_everything must be a whole number, or true for a random one."
    classes = re.findall(r"Problem with given class_path '([^']+)'", message)
    if unknown := re.search(r"Option '([^']+)' is not accepted", message):
        if not where:  # the key is at the outermost level of a file
            return _unknown_key(unknown[1], known_keys)
        suggestion = _suggest(unknown[1], classes[-1]) if classes and "." in classes[-1] else ""
        return f"Unknown key '{unknown[1]}' in {where}{f' ({classes[-1]})' if classes else ''}.{suggestion}"
    if missing := re.search(r"module '([^']+)' has no attribute '([^']+)'", message):
        module = importlib.import_module(missing[1])
        known = {name for name, value in vars(module).items() if inspect.isclass(value) or inspect.isfunction(value)}
        known |= {each.name for each in pkgutil.iter_modules(getattr(module, "__path__", []))}
        return f"Nothing named '{missing[2]}' in {missing[1]}.{did_you_mean(missing[2], known)}"
    value = re.search(r"Expected a path but (\S+) either", message)
    if value and value[1].endswith((".yaml", ".yml")):
        return f"{where}: there is no file {value[1]}."
    if abstract := re.search(r"instantiatable class, but (?:(\S+) )?is abstract", message):
        name = abstract[1] or (value[1] if value else "")
        methods = sorted(getattr(class_at(name), "__abstractmethods__", ())) if "." in name else ()
        lacking = ", ".join(methods) or "what a class of its kind needs"
        return f"{where}: {name} cannot be made, as it lacks {lacking}: name a class that has it."
    lines = [line.strip(" -") for line in message.splitlines()]
    reasons = [line for line in lines if line and not _BOOKKEEPING.match(line)]
    if value and re.fullmatch(r"[\w]+(\.(?!ya?ml$)\w+)+", value[1]):  # the user did not mean a path
        reasons = [line for line in reasons if "Expected a path but" not in line] or reasons
        reasons = [line.replace("Import path does not", f"{value[1]} does not") for line in reasons]
    reasons = reasons or [re.sub(r'^Parser key "[^"]+":', "", message.splitlines()[0]).strip()]
    return f"{where}: {'; '.join(reasons)}" if where else "; ".join(reasons)


def _unknown_key(key: str, known_keys: Iterable[str]) -> str:
    """The message for an unknown key; where its group is unknown, too, it names the group."""
    known = {known for known in known_keys if known.count(".") <= key.count(".")}
    group = key.partition(".")[0]
    if not any(each.partition(".")[0] == group for each in known):
        key, known = group, {each.partition(".")[0] for each in known}
    return f"Unknown key '{key}'.{did_you_mean(key, known)}"


def _suggest(key: str, class_path: str) -> str:
    """The classes of the same kind that have an argument, else the class's own arguments that are near to it."""
    bases = [base for base in class_at(class_path).__mro__[1:] if inspect.isabstract(base)]
    kinds = [kind for kind in _subclasses(bases[-1]) if not inspect.isabstract(kind)] if bases else []
    siblings = [f"{kind.__module__}.{kind.__name__}" for kind in kinds if kind.__name__ == kind.__qualname__]
    others = [path.rpartition(".")[2] for path in siblings if key in arguments_of(path)]
    return f" It is an argument of {', '.join(others)}." if others else did_you_mean(key, arguments_of(class_path))


def _subclasses(base: type) -> list[type]:
    """Subclasses of a class, and theirs."""
    direct: list[type] = base.__subclasses__()
    return [each for kind in direct for each in (kind, *_subclasses(kind))]


def user_error(error: BaseException | None) -> UserError | None:
    """The error that the user can fix, however deep a library has wrapped it; Lightning's misconfigurations count."""
    cause = error
    while cause is not None:
        if isinstance(cause, UserError):
            return cause
        if isinstance(cause, MisconfigurationException):
            return UserError(" ".join(str(cause).split()))
        cause = cause.__cause__ or cause.__context__
    return None if error is None else library_error(error)
