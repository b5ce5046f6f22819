"""The command ``fit``, from its options to the result."""

import json
import shutil
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import lightning as L
from jsonargparse import Namespace
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_info

from dydiff.agents.base import Agent, check_task
from dydiff.cli.lightning_cli import DyDiffCLI, parse
from dydiff.cli.threads import torch_threads
from dydiff.data.source import EpisodeSource
from dydiff.models.base import PretrainedModule
from dydiff.run.checkpoint import Checkpoint, checkpoint_to_resume
from dydiff.run.folders import alone, claim_version, find_last, throwaway
from dydiff.run.loggers import loggers_of
from dydiff.run.pretraining import (
    PretrainedModel,
    PretrainedModels,
    check_pretraining,
    make_source,
    model_directory,
    write_card,
)
from dydiff.run.settings import class_of, plain
from dydiff.run.summary import show_plan, show_result
from dydiff.utils.checkpoints import publish, save
from dydiff.utils.console import show_line
from dydiff.utils.errors import UserError

_MACHINE = ("accelerator", "devices", "num_nodes", "strategy", "enable_progress_bar", "fast_dev_run")


def fit(args: Sequence[str]) -> None:
    """Train an agent, or a model by itself."""
    config = parse(["fit", *args])
    is_agent = not issubclass(class_of(config.model), PretrainedModule)
    with ExitStack() as stack:
        if config.trainer.fast_dev_run:
            config.runs_dir = stack.enter_context(throwaway(config.runs_dir, with_models=is_agent))
        if is_agent:
            AgentFit(config).run()
            return
        model_fit = PretrainingFit(config)
        if not model_fit.run():
            show_line(f"Already trained: {model_fit.model.weights}. Delete it to train it again.")


class AgentFit:
    """The training of an agent, after the models that its rollout needs.

    Args:
        config: The parsed config of a ``fit``.

    Raises:
        UserError: The config has no logger, or there is a run to resume that was made with other settings.
    """

    checkpoint: Checkpoint | None = None
    claimed: Path | None = None

    def __init__(self, config: Namespace) -> None:
        self.config = config
        self.folder = Path(config.runs_dir, config.name)
        self.version: int | None = None
        path = config.ckpt_path
        if path == "last":
            self.version, path = find_last(self.folder, plain(config))
            if path is None:
                rank_zero_info(f"{self.folder} has no checkpoint to resume: a new run starts.")
        self.path = path
        if config.trainer.logger is False:
            raise UserError("A run without a logger has no folder: name one, for example CSVLogger.")

    def run(self) -> None:
        """Check everything, train the missing models, load all, train the agent."""
        with ExitStack() as held:
            if self.version is not None:
                held.enter_context(alone(self.folder / f"version_{self.version}"))  # before its checkpoint is read
            self.checkpoint = checkpoint_to_resume(self.config, self.path)
            self._run(held)

    def _run(self, held: ExitStack) -> None:
        source = make_source(self.config.data.init_args.source)
        if self.checkpoint is not None and issubclass(class_of(self.config.model), Agent):
            check_task(self.checkpoint.content, source.task)
        models = models_of(self.config, source)
        made = DyDiffCLI("fit", self.config, models)  # its synthesizer holds untrained modules
        self._check(made, source)
        try:
            with torch_threads(self.config.threads, made.trainer):
                if made.trainer.is_global_zero:
                    show_plan(models, self.config.name, source, self.folder)
                seconds = train_missing(models)
                models.load()
                self._train(made, seconds, held)
        except Exception:
            if self.claimed is not None and made.trainer.global_step == 0:  # nothing was trained
                shutil.rmtree(self.claimed, ignore_errors=True)
            raise

    def _check(self, made: DyDiffCLI, source: EpisodeSource) -> None:
        """Check all that can be checked before any training."""
        if self.checkpoint is not None:
            self.checkpoint.check_weights(made.model)
        source.load()
        if isinstance(made.model, Agent):
            made.model.check()
        if check := getattr(made.config_init.rollout, "check", None):
            check(made.model)

    def _train(self, made: DyDiffCLI, model_seconds: dict[str, float], held: ExitStack) -> None:
        trainer, agent = made.trainer, made.model
        agent.compile_updates = self.config.compile
        folder = self._run_folder(trainer)
        if self.version is None:
            held.enter_context(alone(folder))
        trainer.loggers = self._loggers(trainer, folder)
        log_dir = str(trainer.log_dir)  # must be read on every rank: Lightning broadcasts it
        seconds = _fit(made, self.checkpoint)
        if self.config.trainer.fast_dev_run:
            show_line("fast_dev_run: every stage has run; nothing is kept.")
        elif trainer.is_global_zero and not trainer.interrupted:
            show_result(trainer, log_dir, model_seconds, seconds)

    def _run_folder(self, trainer: L.Trainer) -> Path:
        """The folder of the run that is resumed, or a new one that no other run has taken."""
        version = self.version
        if version is None:
            version = claim_version(self.folder) if trainer.is_global_zero else 0
            if trainer.is_global_zero:
                self.claimed = self.folder / f"version_{version}"
        return self.folder / f"version_{version}"

    def _loggers(self, trainer: L.Trainer, folder: Path) -> list[Logger]:
        """The loggers, all of which write into the run's folder."""
        purge_step = None
        if self.version is not None:
            assert self.checkpoint is not None
            purge_step = self.checkpoint.purge_step
            for partial in folder.glob("checkpoints/*.part"):  # a process that has died left it
                partial.unlink(missing_ok=True)
        return loggers_of(self.config.trainer.logger, trainer.loggers, folder, purge_step)


class PretrainingFit:
    """The training of one model, for all runs that need it.

    Args:
        config: The parsed config of a ``fit``.

    Raises:
        UserError: Runs could not find or use the trained model.
    """

    def __init__(self, config: Namespace) -> None:
        check_pretraining(config.name, config)
        self.config = config
        self.source = make_source(config.data.init_args.source)
        self.model = PretrainedModel(config.name, model_directory(config.name, config, self.source, config.runs_dir))

    def run(self) -> bool:
        """Train the model and publish its weights, unless they exist. Waits while another run trains it.

        Returns:
            Whether it was trained here.
        """
        with self.model.lock():
            if self.model.trained:
                return False
            # A model always resumes from its last checkpoint.
            path = None if self.config.ckpt_path == "last" else self.config.ckpt_path
            if self.model.interrupted.is_file():
                path = self.model.interrupted
            checkpoint = checkpoint_to_resume(self.config, path)
            made = DyDiffCLI("fit", self.config)
            purge_step = None
            if checkpoint is not None:
                checkpoint.check_weights(made.model)
                purge_step = checkpoint.purge_step
            self.source.load()
            directory = str(self.model.directory)
            made.trainer.loggers = [
                TensorBoardLogger(directory, "", "", default_hp_metric=False, purge_step=purge_step)
            ]
            with torch_threads(self.config.threads, made.trainer):
                seconds = _fit(made, checkpoint)
            if self.config.trainer.fast_dev_run:  # epochs were not compared, so the last weights are kept
                save({"state_dict": made.model.state_dict()}, self.model.weights)
            elif not made.trainer.interrupted:
                self._publish(made.trainer, seconds)
        return True

    def _publish(self, trainer: L.Trainer, seconds: float) -> None:
        name, weights = self.model.name, self.model.weights
        best = next(each for each in trainer.checkpoint_callbacks if getattr(each, "monitor", None))
        assert isinstance(best, ModelCheckpoint)
        if best.best_model_score is None or not best.best_model_score.isfinite():  # Lightning keeps NaN as infinity
            raise UserError(f"'{name}' kept no best weights: '{best.monitor}' never was a finite number.")
        if trainer.is_global_zero:
            loss = float(best.best_model_score)
            write_card(self.model, self.config, self.source, loss)
            publish(Path(best.best_model_path), weights)
            show_line(f"{name}: best holdout loss {loss:.4g} after {seconds:.0f} s, kept in {weights}")
            shutil.rmtree(self.model.interrupted.parent)  # only the best weights are used
        trainer.strategy.barrier()


def _fit(made: DyDiffCLI, checkpoint: Checkpoint | None) -> float:
    """Run the trainer. Returns its seconds."""
    # Whether pretrained models were trained or found must not change the agent.
    L.seed_everything(made.config.seed_everything, verbose=False)
    begin = time.perf_counter()
    path = None if checkpoint is None else checkpoint.path
    options = {"ckpt_path": path, "weights_only": made.config.weights_only}
    made.trainer.fit(made.model, datamodule=made.datamodule, **options)
    return time.perf_counter() - begin


def models_of(config: Namespace, source: EpisodeSource) -> PretrainedModels:
    """The pretrained models of a run, none added yet; they are trained on the run's devices."""
    machine = {key: config.trainer[key] for key in _MACHINE if config.trainer[key] is not None}
    options = (
        f"--threads={config.threads}",
        *(
            f"--trainer.{key}={value if isinstance(value, str) else json.dumps(plain(value))}"
            for key, value in machine.items()
        ),
    )
    return PretrainedModels(
        source, config.data.init_args.source, config.runs_dir, parse, config.pretrained_seed, options
    )


def train_missing(models: PretrainedModels) -> dict[str, float]:
    """Train the models that no earlier run has trained.

    Returns:
        Seconds of each.
    """
    seconds, missing = {}, [model for model in models if not model.trained]
    for number, model in enumerate(missing, 1):
        rank_zero_info(f"Training {model.name}, {number} of {len(missing)} ...")
        begin = time.perf_counter()
        assert model.config is not None
        PretrainingFit(model.config.clone()).run()
        seconds[model.name] = time.perf_counter() - begin
    return seconds
