"""The base class of the models that are trained once, and the files that they are kept in."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from dydiff.data.datamodules import PretrainingDataModule
from dydiff.data.episodes import Episodes
from dydiff.errors import UserError
from dydiff.files import replacing


class PretrainedModule(L.LightningModule, ABC):
    """A model of a dataset: fitted to its statistics, trained on its batches, monitored by ``holdout/loss``.

    A subclass has ``fit_statistics`` and ``loss``; its ``holdout_metrics`` has at least ``loss``, the one that early
    stopping and the choice of the best weights follow.

    Args:
        obs_dim: Size of a state.
        act_dim: Size of an action.
        lr: Adam's learning rate.
    """

    def __init__(self, obs_dim: int, act_dim: int, lr: float) -> None:
        super().__init__()
        self.obs_dim = obs_dim
        self.act_dim = act_dim
        self.lr = lr

    @abstractmethod
    def fit_statistics(self, episodes: Episodes) -> None:
        """Fit the normalizers to the training episodes."""

    @abstractmethod
    def loss(self, batch: Any) -> Tensor:
        """Training loss of a batch, a scalar."""

    def holdout_metrics(self, batch: Any) -> dict[str, Tensor]:
        """Scalars over a holdout batch; ``loss`` among them."""
        return {"loss": self.loss(batch)}

    def setup(self, stage: str) -> None:
        if stage == "fit":
            data: PretrainingDataModule = self.trainer.datamodule  # type: ignore[attr-defined]
            self.fit_statistics(data.train_episodes)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self.loss(batch)
        self.log("train/loss", loss)
        check_finite({"train/loss": loss}, f"in step {self.global_step:,} of {type(self).__name__}")
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        metrics = {f"holdout/{name}": value for name, value in self.holdout_metrics(batch).items()}
        self.log_dict(metrics, batch_size=len(batch[0]), sync_dist=True, prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), self.lr, fused=True)


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


def publish(checkpoint: Path, target: Path) -> None:
    """Keep a Lightning checkpoint's weights, and nothing else of it, as ``target``: whole or not at all."""
    content = torch.load(checkpoint, map_location="cpu", weights_only=True)
    with replacing(target) as part:
        torch.save({"state_dict": content["state_dict"]}, part)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a checkpoint, tensors on the CPU; nothing in it is executed.

    Raises:
        UserError: There is no such file, or it is not a checkpoint.
    """
    if not path.is_file():
        raise UserError(f"No checkpoint at {path.absolute()}.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        content["state_dict"]
    except Exception as error:  # torch raises many kinds for a damaged file
        reason = str(error).splitlines()[0]
        raise UserError(f"{path} is damaged or not a checkpoint ({reason}). Use another, or train it again.") from None
    return content


def load_weights(module: PretrainedModule, path: Path) -> None:
    """Load published (or Lightning's) weights into ``module`` and freeze it for use.

    Raises:
        UserError: The file is not readable, or holds other weights than the module's.
    """
    state = read_checkpoint(path)["state_dict"]
    expected = module.state_dict()
    wrong = [key for key in expected if key not in state or state[key].shape != expected[key].shape]
    if wrong or len(state) != len(expected):
        raise UserError(
            f"{path} does not hold a {type(module).__name__} of this task: {(wrong or list(state))[0]} differs."
        )
    module.load_state_dict(state)
    module.eval().requires_grad_(False)
