"""The command line: ``python -m dydiff fit | validate | test``, by LightningCLI in subclass mode.

``fit`` of an agent first trains the parts that its rollout needs and that no earlier run has trained.
"""

import json
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
from jsonargparse import ArgumentParser, Namespace
from jsonargparse.typing import Path_fr
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from rich.console import Console
from rich.table import Table

from dydiff.agents.base import Agent
from dydiff.data.datamodules import OfflineDataModule
from dydiff.data.episodes import EpisodeSource
from dydiff.errors import UserError
from dydiff.messages import explain
from dydiff.models.pretrained import PretrainedModule, load_weights, publish
from dydiff.pretraining import Part, part_directory, plain, untrained_module
from dydiff.rollout.base import Synthesizer

_INHERITED = ("accelerator", "devices", "num_nodes", "strategy", "enable_progress_bar")
console = Console(highlight=False, soft_wrap=True)


class Parser(LightningArgumentParser):
    """Ends in one line for people instead of the usage of three hundred options."""

    def error(self, message: str, ex: Exception | None = None) -> None:  # type: ignore[override]
        if not self.exit_on_error:  # an attempt inside jsonargparse, which expects its own exception
            super().error(message, ex)
        raise UserError(explain(message))


class DyDiffCLI(LightningCLI):
    """One command: parse, check everything that can be checked, train missing parts, then do it.

    Args:
        args: Command line without the program's name.
    """

    def __init__(self, args: Sequence[str]) -> None:
        self.parts: list[Part] = []
        self.seconds: dict[str, float] = {}
        super().__init__(
            L.LightningModule,
            OfflineDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            seed_everything_default=0,
            save_config_kwargs={"overwrite": True},
            trainer_defaults={"num_sanity_val_steps": 0, "log_every_n_steps": 1, "enable_model_summary": False},
            parser_kwargs={"description": __doc__},
            args=list(args),
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        skipped = {"model", "datamodule", "dataloaders", "train_dataloaders", "val_dataloaders"}
        return {"fit": skipped, "validate": skipped, "test": skipped}

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        parser = Parser(**kwargs)
        parser.add_argument("-c", "--config", action="config", help="A YAML file; later ones and options override it.")
        return parser

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--runs_dir", default="runs", help="Folder of all runs and of the parts they share.")
        parser.add_subclass_arguments(
            L.Callback, "rollout", required=False, help="The callback that feeds synthetic data; null trains without."
        )
        parser.link_arguments("data.obs_dim", "model.init_args.obs_dim", apply_on="instantiate")
        parser.link_arguments("data.act_dim", "model.init_args.act_dim", apply_on="instantiate")
        parser.add_instantiator(self._make_synthesizer, Synthesizer)

    # ------------------------------------------------------------------ before anything is instantiated

    def before_instantiate_classes(self) -> None:
        if self.subcommand is None:
            return
        config = self._config
        self.source = _make_source(config.data.init_args.source)
        if self.subcommand != "fit":
            config.rollout = None
            config.trainer.logger = config.trainer.logger or False
            return
        self.name = Path(str(config.config[0])).stem if config.config else "run"
        self.part = None
        if _is_part(config):
            directory = part_directory(self.name, config, self.source, config.runs_dir)
            self.part = Part(self.name, directory, Path(self.name))
            if self.part.trained:
                console.print(f"Already trained: {self.part.weights}. Delete it to train it again.")
                raise SystemExit(0)
        if config.trainer.logger in (None, True):
            config.trainer.logger = self._logger()

    def _logger(self) -> Namespace:
        if self.part is not None:
            where = {"save_dir": str(self.part.directory), "name": "", "version": ""}
        else:
            where = {"save_dir": self._config.runs_dir, "name": self.name}
        logger = {"class_path": "lightning.pytorch.loggers.TensorBoardLogger", "init_args": where}
        parser = ArgumentParser()
        parser.add_subclass_arguments(L.pytorch.loggers.Logger, "logger")
        return parser.parse_object({"logger": logger}).logger

    def _make_synthesizer(self, synthesizer_class: type[Synthesizer], *args: Any, **kwargs: Any) -> Synthesizer:
        """Pass modules, still untrained, for the parts that the config names by path."""
        for argument, value in kwargs.items():
            if isinstance(value, Path_fr):
                kwargs[argument] = self._add_part(Path(value.absolute))
        return synthesizer_class(*args, **kwargs)

    def _add_part(self, path: Path) -> PretrainedModule:
        config = self.parser.parse_args(self._part_arguments(path)).fit
        module = untrained_module(config, self.source, path)
        directory = part_directory(path.stem, config, self.source, self._config.runs_dir)
        self.parts.append(Part(path.stem, directory, path, module))
        return module

    def _part_arguments(self, path: Path) -> list[str]:
        """The command that trains a part: its own config, this run's dataset, folder and devices."""
        config = self._config
        arguments = ["fit", "--config", str(path), "--runs_dir", config.runs_dir]
        arguments += ["--data.init_args.source", json.dumps(plain(config.data.init_args.source))]
        for key in _INHERITED:
            value = config.trainer[key]
            if value is not None:
                arguments += [f"--trainer.{key}", json.dumps(plain(value)) if value is not str(value) else value]
        return arguments

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        trainer, rollout = self._get(self.config_init, "trainer"), self._get(self.config_init, "rollout")
        callbacks = [*(trainer.callbacks or []), *([rollout] if rollout else [])]
        if trainer.enable_progress_bar is False:
            callbacks = [callback for callback in callbacks if not isinstance(callback, ProgressBar)]
        trainer.callbacks = callbacks
        return super().instantiate_trainer(**kwargs)

    # ------------------------------------------------------------------ around fit

    def before_fit(self) -> None:
        self.source.load()
        self._print_plan()
        for part in self.parts:
            if not part.trained:
                begin = time.perf_counter()
                DyDiffCLI(self._part_arguments(part.config_path))
                self.seconds[part.name] = time.perf_counter() - begin
            assert part.module is not None
            load_weights(part.module, part.weights)
        # Whether parts were trained or found must not change the agent.
        L.seed_everything(self._config.seed_everything, verbose=False)
        self.begin = time.perf_counter()

    def _print_plan(self) -> None:
        if not self._shown:
            return
        table = Table("stage", "", "where", title="Plan", title_justify="left")
        for part in self.parts:
            table.add_row(part.name, "reuse" if part.trained else "train", str(part.directory))
        table.add_row(self.name, "train", str(self.trainer.log_dir))
        console.print(table)
        episodes, contacts = self.source.load(), self.source.task.mujoco2_contacts
        console.print(
            f"Dataset {self.source.name}: {len(episodes):,} transitions in {len(episodes.lengths):,} episodes. "
            f"Evaluation in {self.source.task.env_id}, MuJoCo 2 contacts {'restored' if contacts else 'not restored'}."
        )

    def after_fit(self) -> None:
        seconds = time.perf_counter() - self.begin
        if self.trainer.interrupted:
            return
        if self.part is not None:
            checkpoint = self.trainer.checkpoint_callback
            best = getattr(checkpoint, "best_model_path", "")
            if not best:
                raise UserError(f"'{self.name}' kept no best weights: its trainer needs a ModelCheckpoint with 'monitor'.")
            if self.trainer.is_global_zero:
                publish(Path(best), self.part.weights)
            self.trainer.strategy.barrier()
            if self._shown:
                loss = float(checkpoint.best_model_score)  # type: ignore[union-attr, arg-type]
                console.print(f"{self.name}: best holdout loss {loss:.5g} after {seconds:.0f} s, kept in {self.part.weights}")
        elif self._shown:
            self._print_result(seconds)

    def _print_result(self, seconds: float) -> None:
        metrics = {name: float(value) for name, value in self.trainer.callback_metrics.items()}
        table = Table("", "", title="Result", title_justify="left", show_header=False)
        if "eval/score" in metrics:
            table.add_row("normalised score", f"{metrics['eval/score']:.1f} ± {metrics['eval/score_std']:.1f} over episodes")
            table.add_row("return", f"{metrics['eval/return']:.1f} ± {metrics['eval/return_std']:.1f}")
        checkpoint = self.trainer.checkpoint_callback
        table.add_row("checkpoint", str(getattr(checkpoint, "last_model_path", "") or "none"))
        table.add_row("logs", f"tensorboard --logdir {self.trainer.log_dir}")
        shares = {name: metrics.get(f"seconds/{name}", 0.0) for name in ("rollout", "evaluation")}
        stages = self.seconds | shares | {"updates": seconds - sum(shares.values())}
        table.add_row("time", ", ".join(f"{name} {value:.0f} s" for name, value in stages.items()))
        console.print(table)

    # ------------------------------------------------------------------ small helpers

    @property
    def _config(self) -> Namespace:
        return self.config[self.subcommand]

    @property
    def _shown(self) -> bool:
        return self.trainer.is_global_zero


def _is_part(config: Namespace) -> bool:
    module_name, _, class_name = str(config.model.class_path).rpartition(".")
    return issubclass(getattr(sys.modules[module_name], class_name), PretrainedModule)


def _make_source(config: Namespace) -> EpisodeSource:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(EpisodeSource, "source")
    return parser.instantiate_classes(parser.parse_object({"source": plain(config)})).source


def main(args: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        args: Command line without the program's name; ``None`` takes the process's own.

    Returns:
        The exit code: 0, or 2 where the user can mend what is wrong.
    """
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")  # batches are gathered, not loaded
    try:
        DyDiffCLI(sys.argv[1:] if args is None else args)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
