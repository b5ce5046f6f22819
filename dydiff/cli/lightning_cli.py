"""Train and score offline agents, with on-policy data made by dynamics diffusion.

`fit` of an agent first trains the models that its rollout needs and that no earlier run has trained; `validate` and
`test` score a saved agent. Further commands, each with a --help of its own: `sweep` (many runs), `report` (tables and
pictures of runs), `analyze` (measures of synthetic data), `collect` (datasets made on the spot).
"""

import json
import shutil
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import lightning as L
import torch
from jsonargparse import Namespace
from lightning.pytorch.callbacks import ModelCheckpoint, ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_info

from dydiff.agents.base import Agent, check_task
from dydiff.cli import acceleration
from dydiff.cli.parser import NO_ROLLOUT, Parser
from dydiff.cli.preflight import check_command
from dydiff.data.datamodules import OfflineDataModule
from dydiff.data.source import EpisodeSource
from dydiff.envs.video import check_video, save_video
from dydiff.models.base import PretrainedModule
from dydiff.rollout.base import Synthesizer
from dydiff.run.folders import alone, claim_version, find_last, find_to_score, throwaway
from dydiff.run.loggers import loggers_of, without_files
from dydiff.run.pretraining import Part, Parts, check_part, make_source, part_directory
from dydiff.run.settings import check_settings, class_of, make_absolute, plain
from dydiff.run.summary import show_plan, show_result, write_scores
from dydiff.utils.checkpoints import WholeCheckpointIO, check_weights, publish, read_checkpoint, save
from dydiff.utils.console import show_line
from dydiff.utils.errors import UserError

_INHERITED = ("accelerator", "devices", "num_nodes", "strategy", "enable_progress_bar", "fast_dev_run")


class AlreadyTrained(Exception):
    """There is nothing to do: the part that a command trains lies there trained."""


class DyDiffCLI(LightningCLI):
    """One command: parse, check everything that can be checked, train missing parts, then do it.

    Args:
        args: Command line without the program's name.

    Raises:
        AlreadyTrained: The command trains a part that lies there trained.
    """

    part: Part | None = None
    parts: Parts
    claimed: Path | None = None

    def __init__(self, args: Sequence[str]) -> None:
        with ExitStack() as self._until_exit:
            self._run(args)

    def _run(self, args: Sequence[str]) -> None:
        super().__init__(
            L.LightningModule,
            OfflineDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            seed_everything_default=0,
            save_config_kwargs={"overwrite": True},
            trainer_defaults={
                "num_sanity_val_steps": 0,
                "log_every_n_steps": 1,
                "enable_model_summary": False,
                "use_distributed_sampler": False,  # the data modules share out their batches themselves
            },
            parser_kwargs={"prog": "python -m dydiff", "description": __doc__},
            auto_configure_optimizers=False,
            args=list(args),
        )

    def _run_subcommand(self, subcommand: str) -> None:
        try:
            super()._run_subcommand(subcommand)
        except Exception:
            if self.claimed is not None and self.trainer.global_step == 0:
                shutil.rmtree(self.claimed, ignore_errors=True)  # nothing was trained
            raise

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        skipped = {"model", "datamodule", "dataloaders", "train_dataloaders", "val_dataloaders"}
        return {"fit": skipped, "validate": skipped, "test": skipped}

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        if subcommand != "fit":
            parser.add_argument("--out", type=Path | None, help="JSON file of the result; null: in the run's folder.")
        if subcommand == "test":
            parser.add_argument("--video", type=Path | None, help="A GIF or MP4 file for the first of the episodes.")
        return parser

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        parser = Parser(**kwargs, allow_abbrev=False)
        parser.add_argument("-c", "--config", action="config", help="A YAML file; later ones and options override it.")
        return parser

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        Parts.add_arguments(parser)
        parser.add_argument("--name", type=str | None, help="Name of the run; null takes the first config's file name.")
        acceleration.add_arguments(parser)
        parser.add_subclass_arguments(
            L.Callback, "rollout", help="The kind of synthetic data: a callback, or a file of configs/rollout."
        )
        parser.set_defaults({"rollout": {"class_path": NO_ROLLOUT}})
        parser.link_arguments("data.obs_dim", "model.init_args.obs_dim", apply_on="instantiate")
        parser.link_arguments("data.act_dim", "model.init_args.act_dim", apply_on="instantiate")
        parser.add_instantiator(self._make_synthesizer, Synthesizer)

    def _make_synthesizer(self, *args: Any, **kwargs: Any) -> Synthesizer:
        return self.parts.make_synthesizer(*args, **kwargs)

    # --- before anything is made

    def _parse_ckpt_path(self) -> None:
        config = self.config[self.config.subcommand]
        check_command(config, self.config.subcommand)
        self.name = config.get("name") or (Path(str(config.config[0])).stem if config.get("config") else "run")
        self.checkpoint, self.version = None, None
        if config.get("ckpt_path") == "last":
            folder, is_fit = Path(config.runs_dir, self.name), self.config.subcommand == "fit"
            self.version, config.ckpt_path = (find_last if is_fit else find_to_score)(folder, plain(config))
            if config.ckpt_path is None:
                nowhere = f"{folder} has no checkpoint"
                if not is_fit:
                    raise UserError(f"{nowhere} to score.")
                rank_zero_info(f"{nowhere} to go on from: a new run begins.")
        path = config.get("ckpt_path")
        if path is None and self.config.subcommand != "fit":
            raise UserError("There is nothing to score: give --ckpt_path last, or a checkpoint's file.")
        if path is not None:
            self.checkpoint = read_checkpoint(Path(path))
            if self.config.subcommand == "fit":
                check_settings(self.checkpoint, config.model.class_path, plain(config.model.init_args))
        # Not Lightning's own: it lets the checkpoint's hyperparameters silently override YAML and command line.

    def before_instantiate_classes(self) -> None:
        config = self._config
        self.source = make_source(config.data.init_args.source)
        if self.checkpoint is not None and issubclass(class_of(config.model), Agent):
            check_task(self.checkpoint, self.source.task)
        if self.subcommand != "fit":
            self.save_config_callback = None  # there is no log folder: it would write into the working directory
            config.rollout = Namespace(class_path=NO_ROLLOUT)
            config.trainer.logger = without_files(config.trainer.logger)
            return
        if config.trainer.logger is False:
            raise UserError("A run without a logger has no folder: name one, lightning.pytorch.loggers.CSVLogger, say.")
        config.name = self.name
        if config.trainer.fast_dev_run:
            is_agent = not issubclass(class_of(config.model), PretrainedModule)
            config.runs_dir = self._until_exit.enter_context(throwaway(config.runs_dir, with_models=is_agent))
        elif self.version is not None:
            self._until_exit.enter_context(alone(Path(config.runs_dir, self.name, f"version_{self.version}")))
        make_absolute(config.rollout)
        if issubclass(class_of(config.model), PretrainedModule):
            check_part(self.name, config)
            self.part = Part(self.name, part_directory(self.name, config, self.source, config.runs_dir))
            self._until_exit.enter_context(self.part.alone())
            if self.part.trained:
                raise AlreadyTrained(f"Already trained: {self.part.weights}. Delete it to train it again.")
            if self.part.interrupted.is_file():
                self.checkpoint = read_checkpoint(self.part.interrupted)
                config.ckpt_path = str(self.part.interrupted)
        self.parts = parts_of(config, self.source)

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        trainer, rollout = self._get(self.config_init, "trainer"), self._get(self.config_init, "rollout")
        callbacks = [*(trainer.callbacks or []), rollout]
        if trainer.enable_progress_bar is False:
            callbacks = [callback for callback in callbacks if not isinstance(callback, ProgressBar)]
        trainer.callbacks = callbacks
        plugins = trainer.plugins or []
        trainer.plugins = [*(plugins if isinstance(plugins, list) else [plugins]), WholeCheckpointIO()]
        made = super().instantiate_trainer(**kwargs)
        self._until_exit.callback(torch.set_num_threads, acceleration.set_threads(self._config.threads, made))
        self.datamodule.check_ranks(made.world_size)
        if self.checkpoint is not None:
            path, name = self._config.ckpt_path, type(self.model).__name__
            check_weights(self.checkpoint["state_dict"], self.model.state_dict(), path, name)
        return made

    # --- around test

    def before_test(self) -> None:
        if self._config.video is not None:
            check_video(self._config.video, self.source.task)

    def after_validate(self) -> None:
        """The result as a file."""
        config = self._config
        if self.trainer.is_global_zero and not config.trainer.fast_dev_run:
            write_scores(self.trainer, str(self.subcommand), Path(config.ckpt_path), config.out)

    def after_test(self) -> None:
        """The result as a file, and the film of the episode with which the evaluation begins."""
        self.after_validate()
        path = self._config.video
        if path is None or not self.trainer.is_global_zero:
            return
        seed = self.datamodule.test_seed
        policy = self.model.policy(self.model.sample_eval_actions, torch.Generator(self.model.device).manual_seed(seed))
        total = save_video(policy, self.source.task, seed, path, device=self.model.device)
        show_line(f"An episode of return {total:.1f} is in {path}")

    # --- around fit

    def before_fit(self) -> None:
        self._config.ckpt_path = None  # in the saved config it would make another run of it begin at its end
        self.source.load()
        if isinstance(self.model, Agent):
            self.model.check()
        if check := getattr(self._get(self.config_init, "rollout"), "check", None):
            check(self.model)
        if self.trainer.is_global_zero and self.part is None:
            show_plan(self.parts, self.name, self.source, Path(self._config.runs_dir, self.name))
        self.seconds = self.parts.train_and_load(train_part)
        self.trainer.loggers = self._loggers()
        self.log_dir = str(self.trainer.log_dir)  # asked on every rank: they agree on it
        # Whether parts were trained or found must not change the agent.
        L.seed_everything(self._config.seed_everything, verbose=False)
        if self.part is None:
            num_updates = (self.trainer.max_epochs or 0) * self._config.data.init_args.updates_per_epoch
            acceleration.accelerate(self.model, self.trainer, self._config.compile, num_updates)
        self.begin = time.perf_counter()

    def _loggers(self) -> list[Logger]:
        """Those in the part's folder, in that of the run that goes on, or in one that no other run has taken."""
        purge_step = None
        if self.checkpoint is not None:  # what was logged after it is logged again
            state = self.checkpoint["state_dict"]
            purge_step = int(state.get("num_updates", self.checkpoint["global_step"])) + 1
        if self.part is not None:
            return [TensorBoardLogger(str(self.part.directory), "", "", default_hp_metric=False, purge_step=purge_step)]
        folder, version = Path(self._config.runs_dir, self.name), self.version
        for torn in folder.glob(f"version_{version}/checkpoints/*.part"):  # of a process that died while it wrote
            torn.unlink(missing_ok=True)
        if version is None:
            purge_step = None  # the checkpoint is of another folder
            version = 0
            if self.trainer.is_global_zero:
                version = claim_version(folder)
                self.claimed = folder / f"version_{version}"
                self._until_exit.enter_context(alone(self.claimed))
        return loggers_of(self._config.trainer.logger, self.trainer.loggers, folder / f"version_{version}", purge_step)

    def after_fit(self) -> None:
        seconds = time.perf_counter() - self.begin
        if self.trainer.interrupted:
            return
        if self.part is not None:
            self._publish(self.part, seconds)
        elif self._config.trainer.fast_dev_run:
            show_line("fast_dev_run: every stage has run; nothing is kept.")
        elif self.trainer.is_global_zero:
            show_result(self.trainer, self.log_dir, self.seconds, seconds)

    def _publish(self, part: Part, seconds: float) -> None:
        if self._config.trainer.fast_dev_run:  # nothing was compared
            save({"state_dict": self.model.state_dict()}, part.weights)
            return
        best = next(each for each in self.trainer.checkpoint_callbacks if getattr(each, "monitor", None))
        assert isinstance(best, ModelCheckpoint)
        if best.best_model_score is None or not best.best_model_score.isfinite():  # Lightning keeps NaN as infinity
            raise UserError(f"'{part.name}' kept no best weights: '{best.monitor}' never was a finite number.")
        if self.trainer.is_global_zero:
            publish(Path(best.best_model_path), part.weights)
            loss = float(best.best_model_score)
            show_line(f"{part.name}: best holdout loss {loss:.4g} after {seconds:.0f} s, kept in {part.weights}")
            shutil.rmtree(part.interrupted.parent)  # only the best weights are used
        self.trainer.strategy.barrier()

    @property
    def _config(self) -> Namespace:
        return self.config[self.subcommand]


class _Parsed(DyDiffCLI):
    """A command that is parsed and not run; it leaves the run's random numbers alone."""

    def _set_seed(self) -> None:
        pass

    def before_instantiate_classes(self) -> None:
        pass

    def instantiate_classes(self) -> None:
        pass

    def _run_subcommand(self, subcommand: str) -> None:
        pass


def parse_fit(args: Sequence[str]) -> Namespace:
    """The config of a ``fit`` command, defaults filled in; nothing is run."""
    return _Parsed(args).config.fit


def parts_of(config: Namespace, source: EpisodeSource) -> Parts:
    """The parts of a run, none of them found yet; they are trained on the run's own devices."""
    machine = {key: config.trainer[key] for key in _INHERITED if config.trainer[key] is not None}
    options = (f"--threads={config.threads}", *(f"--trainer.{key}={_text(value)}" for key, value in machine.items()))
    return Parts(source, config.data.init_args.source, config.runs_dir, parse_fit, config.parts_seed, options)


def train_part(args: Sequence[str]) -> None:
    """Run the ``fit`` command of a part, unless another run has trained it meanwhile."""
    with suppress(AlreadyTrained):
        DyDiffCLI(args)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(plain(value))
