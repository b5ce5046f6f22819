"""The options of ``fit``, ``validate`` and ``test``, and the objects that Lightning makes of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import lightning as L
from jsonargparse import Namespace
from jsonargparse.typing import PositiveInt
from lightning.pytorch.callbacks import Callback, ProgressBar
from lightning.pytorch.cli import LightningCLI, SaveConfigCallback

from dydiff.agents.optimization import COMPILE_FROM
from dydiff.cli.help import RunParser
from dydiff.cli.parser import ConfigFile, Parser
from dydiff.cli.preflight import check_command
from dydiff.data.datamodules import OfflineDataModule
from dydiff.rollout.base import Synthesizer
from dydiff.run.pretraining import PretrainedModels
from dydiff.run.settings import class_of, make_absolute
from dydiff.utils.checkpoints import WholeCheckpointIO

COMMANDS = {
    "fit": "Train an agent, after the models that its rollout needs and that no earlier run has trained; or one model.",
    "validate": "Score a saved agent on the episodes that its training was evaluated on.",
    "test": "Score a saved agent on other episodes.",
}
_TRAINER_DEFAULTS = {
    "num_sanity_val_steps": 0,
    "log_every_n_steps": 1,
    "enable_model_summary": False,
    "use_distributed_sampler": False,  # the data modules divide batches over ranks themselves
}
_NOT_OPTIONS = {"model", "datamodule", "dataloaders", "train_dataloaders", "val_dataloaders"}


def make_parser(command: str) -> Parser:
    """The parser of ``fit``, ``validate`` or ``test``."""
    parser = RunParser(prog=f"python -m dydiff {command}", description=COMMANDS[command], allow_abbrev=False)
    parser.list_choices()
    parser.add_argument("-c", "--config", action=ConfigFile, help="A YAML file; later ones and options override it.")
    parser.add_argument(
        "--seed_everything", type=bool | int, default=0, help="Seed of all random numbers; true draws one."
    )
    parser.add_lightning_class_args(L.Trainer, "trainer")
    parser.set_defaults({f"trainer.{key}": value for key, value in _TRAINER_DEFAULTS.items()})
    parser.add_lightning_class_args(L.LightningModule, "model", subclass_mode=True)
    parser.add_lightning_class_args(OfflineDataModule, "data", subclass_mode=True)
    PretrainedModels.add_arguments(parser)
    parser.add_argument("--name", type=str | None, help="Name of the run; null takes the first config's file name.")
    parser.add_argument(
        "--compile",
        type=bool | Literal["auto"],
        default="auto",
        help=f"Compile the agent's updates; auto: where there are at least {COMPILE_FROM:,} and a compiler.",
    )
    parser.add_argument(
        "--threads",
        type=PositiveInt | Literal["auto"],
        default="auto",
        help="Threads of torch's operators on the CPU; auto: 1 where the CPU trains, torch's default elsewhere.",
    )
    parser.add_subclass_arguments(
        Callback,
        "rollout",
        required=False,
        default=None,
        help="Synthetic data: a callback, or a file of configs/rollout; null trains on the dataset alone.",
    )
    parser.link_arguments("data.obs_dim", "model.init_args.obs_dim", apply_on="instantiate")
    parser.link_arguments("data.act_dim", "model.init_args.act_dim", apply_on="instantiate")
    parser.link_arguments("model.init_args.horizon", "data.init_args.horizon")  # where both have one
    parser.add_method_arguments(L.Trainer, command, skip=_NOT_OPTIONS)
    if command != "fit":
        parser.add_argument("--out", type=Path | None, help="JSON file of the result; null: in the run's folder.")
    if command == "test":
        parser.add_argument("--video", type=Path | None, help="A GIF or MP4 file for the first of the episodes.")
    return parser


def parse(args: Sequence[str]) -> Namespace:
    """The config of a command line that begins with ``fit``, ``validate`` or ``test``; nothing is made or run.

    Raises:
        UserError: An option or a config is wrong.
    """
    config = make_parser(args[0]).parse_args(args[1:])
    config.name = config.name or (Path(str(config.config[0])).stem if config.config else "run")
    if config.rollout is not None:
        if class_of(config.rollout) is Callback:  # earlier versions wrote it for no rollout
            config.rollout = None
        else:
            make_absolute(config.rollout)
    check_command(config, args[0])
    return config


class DyDiffCLI(LightningCLI):
    """Model, data module and trainer of a parsed config, with the random numbers seeded. It runs nothing.

    Args:
        command: ``fit``, ``validate`` or ``test``.
        config: The parsed config; a random seed is written to it.
        models: Puts modules, still untrained, in the place of the configs that a synthesizer names.
    """

    def __init__(self, command: str, config: Namespace, models: PretrainedModels | None = None) -> None:
        self._given = make_parser(command), config
        if models is not None:
            self._given[0].add_instantiator(models.make_synthesizer, Synthesizer)
        super().__init__(
            L.LightningModule,
            OfflineDataModule,
            save_config_callback=SaveConfigCallback if command == "fit" else None,  # scoring has no folder
            save_config_kwargs={"overwrite": True},
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            run=False,
        )

    def setup_parser(self, *_: Any) -> None:
        self.parser = self._given[0]

    def parse_arguments(self, *_: Any) -> None:
        self.config = self._given[1]

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        trainer, rollout = self.config_init.trainer, self.config_init.rollout
        callbacks = [*(trainer.callbacks or []), *([] if rollout is None else [rollout])]
        if trainer.enable_progress_bar is False:
            callbacks = [callback for callback in callbacks if not isinstance(callback, ProgressBar)]
        trainer.callbacks = callbacks
        plugins = trainer.plugins or []
        trainer.plugins = [*(plugins if isinstance(plugins, list) else [plugins]), WholeCheckpointIO()]
        made = super().instantiate_trainer(**kwargs)
        self.datamodule.check_ranks(made.world_size)
        return made
