"""The base class of the models that are trained once."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from dydiff.data.datamodules import PretrainingDataModule
from dydiff.data.episodes import Episodes
from dydiff.utils import distributed
from dydiff.utils.checkpoints import check_weights, read_checkpoint
from dydiff.utils.errors import UserError, above_zero
from dydiff.utils.seeding import SeededModule


class PretrainedModule(SeededModule, ABC):
    """A model of a dataset: fitted to its statistics, trained on its batches, monitored by ``holdout/loss``.

    A subclass has ``fit_statistics`` and ``loss``. Early stopping and the choice of the best weights follow
    ``holdout/loss``: the loss over the holdout, unless the subclass logs another.

    Args:
        obs_dim: Size of a state.
        act_dim: Size of an action.
        lr: Adam's learning rate.
        lr_schedule: ``constant``, or ``cosine``: the learning rate decays to 0 by half a cosine over the training.

    Attributes:
        holdout_names: What is logged over the holdout; a callback may monitor it.
    """

    holdout_names: tuple[str, ...] = ("holdout/loss",)

    def __init__(
        self, obs_dim: int, act_dim: int, lr: float, lr_schedule: Literal["constant", "cosine"] = "constant"
    ) -> None:
        super().__init__()
        self.obs_dim = obs_dim
        self.act_dim = act_dim
        above_zero(lr=lr)
        self.lr = lr
        self.lr_schedule = lr_schedule

    @abstractmethod
    def fit_statistics(self, episodes: Episodes) -> None:
        """Fit the normalizers to the dataset."""

    @abstractmethod
    def loss(self, batch: Any) -> Tensor:
        """Training loss of this rank's share of a batch, a scalar; its mean over ranks is the full batch's loss."""

    def holdout_metrics(self, batch: Any) -> dict[str, Tensor]:
        """Scalars over a holdout batch; ``loss`` among them."""
        return {"loss": self.loss(batch)}

    def setup(self, stage: str) -> None:
        if stage == "fit":
            data: PretrainingDataModule = self.trainer.datamodule  # type: ignore[attr-defined]
            self.fit_statistics(data.episodes)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self.loss(batch)
        (loss_mean,) = distributed.mean([loss.detach()])
        self.log("train/loss", loss_mean)
        check_finite({"train/loss": loss_mean}, f"in step {self.global_step:,} of {type(self).__name__}")
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        # Every rank evaluates the full holdout, so all ranks choose the same best epoch as one process would.
        metrics = {f"holdout/{name}": value for name, value in self.holdout_metrics(batch).items()}
        self.log_dict(metrics, batch_size=len(batch[0]), prog_bar=True)

    def on_train_start(self) -> None:
        """Do not resume a training that early stopping has ended."""
        for stopping in self.trainer.early_stopping_callbacks:
            if stopping is not None and stopping.wait_count >= stopping.patience:
                self.trainer.should_stop = True

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The parameters in the form that Adam expects."""
        return [{"params": list(self.parameters())}]

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = torch.optim.Adam(self.parameter_groups(), self.lr, fused=True)
        if self.lr_schedule == "constant":
            return optimizer
        num_steps = self.trainer.estimated_stepping_batches
        if num_steps == float("inf"):
            raise UserError("lr_schedule: cosine needs the length of the training: set the trainer's max_epochs.")
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, int(num_steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def check_finite(metrics: dict[str, Tensor], when: str) -> None:
    """Stop a training that has diverged, before its weights are kept.

    Raises:
        UserError: A metric is not finite.
    """
    for name, value in metrics.items():
        if not bool(value.isfinite()):
            raise UserError(
                f"{name} is {float(value)} {when}: the training has diverged. What was saved before still stands; "
                "lower the learning rate, and look at the curves and at the rewards' scale."
            )


def load_weights(module: PretrainedModule, path: Path) -> None:
    """Load published (or Lightning's) weights into ``module`` and freeze it for use.

    Raises:
        UserError: The file is not readable, or its weights do not fit the module.
    """
    state = read_checkpoint(path)["state_dict"]
    check_weights(state, module.state_dict(), path, type(module).__name__)
    module.load_state_dict(state)
    module.eval().requires_grad_(False)
