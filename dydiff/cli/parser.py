"""A parser whose errors are one line for people, with the right keys named."""

import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterable, Sequence
from typing import Any

from jsonargparse import Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.cli import LightningArgumentParser

from dydiff.run.settings import arguments_of, class_at
from dydiff.utils.errors import UserError, did_you_mean

NO_ROLLOUT = "lightning.pytorch.callbacks.Callback"  # Lightning's callback that does nothing
_SOURCE = ("dydiff.data.MinariSource", "dydiff.data.SplitSource")
# Options that replace what came before whole, settings of another kind must not leak in: after classes that share no
# argument with what comes, nothing is left to merge it with.
_WHOLE = {
    "--rollout": (NO_ROLLOUT,),
    **dict.fromkeys(("--data.source", "--data.init_args.source", "--source"), _SOURCE),
}
_BOOKKEEPING = re.compile(
    r"Does not validate|Subtypes:|Errors:|Given value|Expected a <class 'NoneType'>|Problem with given class|Parser key"
)


class Parser(LightningArgumentParser):
    """Ends in one line for people instead of the usage of three hundred options."""

    def error(self, message: str, ex: Exception | None = None) -> None:  # type: ignore[override]
        if not self.exit_on_error:  # an attempt inside jsonargparse, which expects its own exception
            super().error(message, ex)
        raise UserError(explain(message, self._keys())) from ex

    def parse_args(self, args: Sequence[str] | None = None, *rest: Any, **options: Any) -> Namespace:  # type: ignore[override]
        if not self.exit_on_error and args is not None:  # jsonargparse hands null on as Python writes it
            args = [f"{each.removesuffix('=None')}=null" if each.endswith("=None") else each for each in args]
        if not self.exit_on_error or args is None:
            return super().parse_args(args, *rest, **options)
        return super().parse_args([each for argument in args for each in _replacing(argument)], *rest, **options)

    def _keys(self) -> list[str]:
        """All keys of this parser and its subcommands."""
        parsers = [self, *(getattr(self, "_subcommands_action", None) or Namespace(choices={})).choices.values()]
        return [action.dest for parser in parsers for action in parser._actions if action.dest.split(".")[-1] != "help"]


def _replacing(argument: str) -> list[str]:
    """An argument, after those that clear what it is to replace whole."""
    option = argument.partition("=")[0]
    return [*(part for neutral in _WHOLE.get(option, ()) for part in (option, neutral)), argument]


def explain(message: str, known_keys: Iterable[str] = ()) -> str:
    """A parser's message in one line.

    Args:
        message: What jsonargparse says; nested over many lines where a class has a wrong argument.
        known_keys: All keys of the command, to suggest from.
    """
    if unknown := re.search(r"does not accept option '([^']+)'|unrecognized arguments: -*([\w.]+)", message):
        key = unknown[1] or unknown[2]
        known = {known for known in known_keys if known.count(".") <= key.count(".")}
        return f"Unknown key '{key}'.{did_you_mean(key, known)}"
    where = ".".join(re.findall(r'Parser key "([^"]+)"', message))
    classes = re.findall(r"Problem with given class_path '([^']+)'", message)
    if unknown := re.search(r"Option '([^']+)' is not accepted", message):
        suggestion = _suggest(unknown[1], classes[-1]) if classes and "." in classes[-1] else ""
        return f"Unknown key '{unknown[1]}' in {where}{f' ({classes[-1]})' if classes else ''}.{suggestion}"
    if missing := re.search(r"module '([^']+)' has no attribute '([^']+)'", message):
        module = importlib.import_module(missing[1])
        known = {name for name, value in vars(module).items() if inspect.isclass(value) or inspect.isfunction(value)}
        known |= {each.name for each in pkgutil.iter_modules(getattr(module, "__path__", []))}
        return f"Nothing named '{missing[2]}' in {missing[1]}.{did_you_mean(missing[2], known)}"
    value = re.search(r"Expected a path but (\S+) either", message)
    if abstract := re.search(r"instantiatable class, but (?:(\S+) )?is abstract", message):
        name = abstract[1] or (value[1] if value else "")
        methods = sorted(getattr(class_at(name), "__abstractmethods__", ())) if "." in name else ()
        lacking = ", ".join(methods) or "what a class of its kind needs"
        return f"{where}: {name} cannot be made, as it lacks {lacking}: name a class that has it."
    lines = [line.strip(" -") for line in message.splitlines()]
    told = [line for line in lines if line and not _BOOKKEEPING.match(line)]
    if value and re.fullmatch(r"[\w]+(\.(?!ya?ml$)\w+)+", value[1]):  # it was never meant for a path
        told = [line for line in told if "Expected a path but" not in line] or told
        told = [line.replace("Import path does not", f"{value[1]} does not") for line in told]
    told = told or [re.sub(r'^Parser key "[^"]+":', "", message.splitlines()[0]).strip()]
    return f"{where}: {'; '.join(told)}" if where else "; ".join(told)


def _suggest(key: str, class_path: str) -> str:
    """The classes of the same kind that have an argument, else the class's own arguments that are near to it."""
    base = next((base for base in class_at(class_path).__mro__[1:] if inspect.isabstract(base)), None)
    kinds: list[type] = base.__subclasses__() if base is not None else []
    siblings = [f"{kind.__module__}.{kind.__name__}" for kind in kinds if kind.__name__ == kind.__qualname__]
    others = [path.rpartition(".")[2] for path in siblings if key in arguments_of(path)]
    return f" It is an argument of {', '.join(others)}." if others else did_you_mean(key, arguments_of(class_path))


def user_error(error: BaseException | None) -> UserError | None:
    """What the user can mend, however deep a library has wrapped it; Lightning's own misconfigurations, too."""
    while error is not None:
        if isinstance(error, UserError):
            return error
        if isinstance(error, MisconfigurationException):
            return UserError(" ".join(str(error).split()))
        error = error.__cause__ or error.__context__
    return None
