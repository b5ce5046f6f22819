"""Random numbers that depend on what they are for, not on what was drawn before."""

import hashlib

import lightning as L
import torch

from dydiff.utils import distributed


def seed_of(*key: int) -> int:
    """A seed for each key of non-negative integers; seeds of different keys are independent."""
    return int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:8], "big") >> 1


class SeededModule(L.LightningModule):
    """A module whose epochs are seeded by the run's seed and the epoch's number.

    So no random state needs to be kept: a run that resumes from a checkpoint, on any device, draws what it would have
    drawn without a break.

    Attributes:
        run_seed: The seed at the beginning of ``fit``; the same on all ranks.
    """

    run_seed: int

    def on_fit_start(self) -> None:
        self.run_seed = distributed.gather_objects(torch.initial_seed())[0]

    def on_train_epoch_start(self) -> None:
        torch.manual_seed(seed_of(self.run_seed, self.current_epoch))
