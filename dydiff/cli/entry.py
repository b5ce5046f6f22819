"""The command line: ``fit``, ``validate`` and ``test`` by LightningCLI, and the commands about data and many runs."""

import inspect
import logging
import pkgutil
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch.utilities.exceptions import SIGTERMException

from dydiff.agents.base import Agent, load_agent
from dydiff.cli import fits
from dydiff.cli.generate import generate
from dydiff.cli.lightning_cli import COMMANDS as RUN_COMMANDS
from dydiff.cli.lightning_cli import parse
from dydiff.cli.new import new
from dydiff.cli.parser import Parser, user_error
from dydiff.cli.scoring import score
from dydiff.data.source import EpisodeSource
from dydiff.report.command import report
from dydiff.rollout.base import Synthesizer
from dydiff.run.pretraining import PretrainedModels, make_source
from dydiff.run.settings import config_paths
from dydiff.sweep.command import sweep
from dydiff.utils import distributed
from dydiff.utils.console import show_line
from dydiff.utils.errors import UserError, did_you_mean, first_line


def functions_of(command: str) -> dict[str, Callable[..., Any]]:
    """The functions of ``analyze`` or ``collect`` by name: each module of the folder has one, named as the module."""
    package, prefix = _FOLDERS[command]
    names = [module.name for module in pkgutil.iter_modules(import_module(package).__path__)]
    found = {name: getattr(import_module(f"{package}.{name}"), prefix + name, None) for name in sorted(names)}
    return {name: function for name, function in found.items() if function is not None}


def analyze(name: str, args: Sequence[str]) -> None:
    """``analyze <what>``: measure synthetic data, with the pretrained models trained or found as for ``fit``."""
    measure = _function_of("analyze", name)
    if "source" not in inspect.signature(measure).parameters:  # it reads what other analyses wrote
        _call(measure, _parser("analyze", name, measure), args)
        return
    parser = _analysis_parser(name, measure)
    config = parser.parse_args(list(args))
    models = _analysis_models(config)
    parser.add_instantiator(models.make_synthesizer, Synthesizer)
    made = parser.instantiate_classes(config)
    if made.get("agent") is not None:  # a wrong checkpoint is reported before models are trained
        load_agent(made.agent, made.checkpoint, made.source.task)
    elif made.get("checkpoint") is not None:
        raise UserError("A 'checkpoint' needs its 'agent', for example --agent dydiff.agents.TD3BC.")
    fits.train_missing(models)
    models.load()
    measure(**{key: value for key, value in made.items() if key not in ("config", "runs_dir", "pretrained_seed")})


def _analysis_parser(name: str, measure: Callable[..., None]) -> Parser:
    parser = _parser("analyze", name, measure)
    takes = inspect.signature(measure).parameters
    PretrainedModels.add_arguments(parser)
    parser.add_function_arguments(measure, skip={"agent"}, sub_configs=True)
    if "agent" in takes:
        parser.add_subclass_arguments(Agent, "agent", required=takes["agent"].default is takes["agent"].empty)
        parser.link_arguments("source", "agent.init_args.obs_dim", _obs_dim, apply_on="instantiate")
        parser.link_arguments("source", "agent.init_args.act_dim", _act_dim, apply_on="instantiate")
    return parser


def _analysis_models(config: Namespace) -> PretrainedModels:
    return PretrainedModels(make_source(config.source), config.source, config.runs_dir, parse, config.pretrained_seed)


def check(args: Sequence[str]) -> tuple[Namespace, PretrainedModels]:
    """The settings of a command and the pretrained models that it needs; the command is not run.

    Raises:
        UserError: A setting is wrong, or the dataset cannot be loaded.
    """
    try:
        if args[0] == "analyze":
            name = args[1] if len(args) > 1 else ""
            config = _analysis_parser(name, _function_of("analyze", name)).parse_args(list(args[2:]))
            models = _analysis_models(config)
        else:
            config = parse(args)
            models = fits.models_of(config, make_source(config.data.init_args.source))
        models.source.load()
        for path in config_paths(config):
            models.add(path)
    except Exception as error:
        raise user_error(error) or error from None
    return config, models


def run_sweep(args: Sequence[str]) -> None:
    """``sweep``: many runs; what follows ``--`` goes to each of them."""
    end = args.index("--") if "--" in args else len(args)
    given, extra = args[:end], args[end + 1 :]
    parser = _parser("sweep", "", sweep)
    _call(sweep, parser, given, check=check, extra=extra)


def collect(name: str, args: Sequence[str]) -> None:
    """``collect <what>``: make a dataset."""
    make = _function_of("collect", name)
    path = _call(make, _parser("collect", name, make), args)
    show_line(f"Written to {path}; use it with --data.source LocalSource --data.source.path {path}")


def _call(function: Callable[..., Any], parser: Parser, args: Sequence[str], **given: Any) -> Any:
    """Call a function with its arguments from the command line, except those that are given."""
    parser.add_function_arguments(function, skip=set(given))
    config = parser.parse_args(list(args))
    return function(**{key: value for key, value in config.items() if key != "config"}, **given)


def run_generate(args: Sequence[str]) -> None:
    """``generate``: a run's synthetic data as a dataset."""
    _call(generate, _parser("generate", "", generate), args)


def run_new(args: Sequence[str]) -> None:
    """``new``: a folder of configs that fit a dataset."""
    parser = Parser(prog="python -m dydiff new", description=_summary(new), allow_abbrev=False)
    parser.add_argument("folder", type=Path, help="A new folder.")
    parser.add_subclass_arguments(EpisodeSource, "source", required=True, help="The dataset.")
    parser.add_argument("--agent", type=str, default="TD3BC", help="Class of the agent, by name or import path.")
    config = parser.parse_args(list(args))
    new(config.folder, config.source, config.agent)


def run_report(args: Sequence[str]) -> None:
    """``report``: tables and plots of runs."""
    parser = Parser(prog="python -m dydiff report", description=_summary(report), allow_abbrev=False)
    parser.add_argument("runs", nargs="+", help="Folders of runs; all runs below them count.")
    parser.add_function_arguments(report, skip={"runs"})
    report(**parser.parse_args(list(args)))


_FOLDERS = {"analyze": ("dydiff.analysis", ""), "collect": ("dydiff.collect", "collect_")}


def _parser(command: str, name: str, function: Callable[..., Any]) -> Parser:
    prog = f"python -m dydiff {command} {name}".rstrip()
    parser = Parser(prog=prog, description=_summary(function), allow_abbrev=False)
    parser.add_argument("-c", "--config", action="config")
    return parser


def _summary(function: Callable[..., Any]) -> str:
    """The text of a docstring before its arguments, which the parser lists."""
    return (inspect.getdoc(function) or "").partition("Args:")[0].strip()


def _run_function(command: str, run: Callable[[str, Sequence[str]], None], args: Sequence[str]) -> None:
    """Run ``<command> <what> ...``.

    Raises:
        UserError: The command has no such function.
    """
    name = args[0] if args else ""
    if name in ("-h", "--help"):
        print(f"usage: python -m dydiff {command} WHAT --help\n")
        for known, function in functions_of(command).items():
            print(f"{known:20} {(function.__doc__ or '').splitlines()[0]}")
        raise SystemExit(0)
    run(name, args[1:])


def _function_of(command: str, name: str) -> Callable[..., Any]:
    """The function of a command by its name, or a custom function by its import path.

    Raises:
        UserError: There is no such function.
    """
    functions = functions_of(command)
    if name in functions:
        return functions[name]
    module, _, attribute = name.rpartition(".")
    if module and all(part.isidentifier() for part in name.split(".")):
        try:
            found = getattr(import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise UserError(f"{command} what? There is no {name}: {first_line(error)}.") from error
        if not inspect.isfunction(found):
            raise UserError(f"{command} what? {name} is a {type(found).__name__}, not a function.")
        return found
    known = did_you_mean(name, functions) if name else f" {' or '.join(functions)}."
    raise UserError(f"{command} what?{f' Not {name!r}.' if name else ''}{known}")


def _obs_dim(source: EpisodeSource) -> int:
    return source.task.obs_dim


def _act_dim(source: EpisodeSource) -> int:
    return source.task.act_dim


def _quieten() -> None:
    """Drop the messages of Lightning and torch that no user can act on."""
    for message in (
        ".*does not have many workers.*",  # batches are gathered, not loaded
        ".*isinstance\\(treespec, LeafSpec\\).*",
        ".*sync_dist=True.*",  # metrics are pooled over ranks already
        ".*random_state is deprecated.*",  # rliable causes it
        ".*Experiment logs directory .* exists and is not empty.*",  # a resumed run keeps its files
    ):
        warnings.filterwarnings("ignore", message=message)
    for name in ("utilities.rank_zero", "trainer.connectors.checkpoint_connector"):
        logging.getLogger(f"lightning.pytorch.{name}").addFilter(_no_advice)


def _no_advice(record: logging.LogRecord) -> bool:
    return not any(advice in record.getMessage() for advice in ("Tip:", "`weights_only` was not set"))


COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
    "fit": fits.fit,
    "validate": partial(score, "validate"),
    "test": partial(score, "test"),
    "sweep": run_sweep,
    "report": run_report,
    "analyze": partial(_run_function, "analyze", analyze),
    "collect": partial(_run_function, "collect", collect),
    "new": run_new,
    "generate": run_generate,
}
_SUMMARIES = RUN_COMMANDS | {
    "sweep": "Many runs, on Ray Tune.",
    "report": "Tables and plots of runs.",
    "analyze": "Measure synthetic data.",
    "collect": "Make a dataset.",
    "new": "Write the configs of a run on your own dataset.",
    "generate": "Write a run's synthetic data as a dataset.",
}


def _run(args: Sequence[str]) -> None:
    """Run a command line.

    Raises:
        UserError: There is no such command.
    """
    name = args[0] if args else ""
    if name in ("-h", "--help"):
        print("usage: python -m dydiff COMMAND --config FILE [--OPTION VALUE ...]\n")
        for command, summary in _SUMMARIES.items():
            print(f"{command:10} {summary}")
        print("\npython -m dydiff COMMAND --help lists the options of a command.")
        raise SystemExit(0)
    if name not in COMMANDS:
        wrong = f"There is no command '{name}'." if name else "Which command?"
        raise UserError(wrong + did_you_mean(name, COMMANDS, len(COMMANDS)))
    COMMANDS[name](args[1:])


_AGAIN = " The same command resumes it."
_RESUMING = {"fit": " Resume with --ckpt_path last.", "sweep": _AGAIN, "collect": _AGAIN}


def main(args: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        args: Command line without the program's name; ``None`` takes the process's arguments.

    Returns:
        The exit code: 0; 2 where the user can fix the mistake; 1 where another process of a training has died; 130
        where a person has interrupted this one (SIGINT), 143 where it was terminated (SIGTERM).
    """
    _quieten()
    given = sys.argv[1:] if args is None else args
    resume = _RESUMING.get(given[0] if given else "", "")
    try:
        _run(given)
    except SIGTERMException:  # Lightning raises it without a code, which would be success
        print(f"error: Terminated (SIGTERM).{resume}", file=sys.stderr)
        return 128 + signal.SIGTERM
    except (KeyboardInterrupt, SystemExit) as stop:  # Lightning turns an interrupt into an exit without its code
        if not isinstance(stop, KeyboardInterrupt) and not isinstance(stop.__context__, KeyboardInterrupt):
            raise
        print(f"error: Interrupted.{resume}", file=sys.stderr)
        return 128 + signal.SIGINT
    except Exception as error:
        if distributed.is_loss_of_peer(error):
            print(
                "error: Another process of this training has died; look for its own message. What was saved before "
                "is intact: resume with --ckpt_path last.",
                file=sys.stderr,
            )
            return 1
        fixable = user_error(error)
        if fixable is None and isinstance(error, OSError) and error.filename is not None:
            fixable = UserError(f"{error.filename}: {error.strerror}.")
        if fixable is None:
            raise
        print(f"error: {fixable}", file=sys.stderr)
        return 2
    return 0
