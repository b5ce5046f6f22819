"""The agents' data module: minibatches of real and synthetic transitions, mixed by the real ratio."""

from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from dydiff.data.buffer import TransitionBuffer
from dydiff.data.datamodules import OfflineDataModule
from dydiff.data.episodes import Episodes, EpisodeSource, Transitions
from dydiff.errors import UserError


class MixedDataModule(OfflineDataModule):
    """Stacks of ``updates_per_step`` minibatches, each ``real_ratio`` real and the rest synthetic.

    While the synthetic buffer holds less than its share of one minibatch, minibatches are all real. Validation and
    test batches are seeds of the episodes to play.

    Args:
        source: Where the real dataset comes from.
        real_ratio: Share of real transitions in a minibatch (eta), in (0, 1].
        batch_size: Transitions of a minibatch.
        updates_per_epoch: Gradient updates of an epoch.
        updates_per_step: Gradient updates of one training step (K); must divide ``updates_per_epoch``.
        synthetic_capacity: Transitions that the synthetic buffer holds before the oldest give way.
        num_eval_episodes: Episodes of an evaluation.
        eval_seed: Seed of the first validation episode; the test's episodes are others.
    """

    episodes: Episodes
    synthetic: TransitionBuffer

    def __init__(
        self,
        source: EpisodeSource,
        real_ratio: float = 0.6,
        batch_size: int = 256,
        updates_per_epoch: int = 500,
        updates_per_step: int = 50,
        synthetic_capacity: int = 2_000_000,
        num_eval_episodes: int = 10,
        eval_seed: int = 0,
    ) -> None:
        super().__init__(source)
        if not 0 < real_ratio <= 1:
            raise UserError(f"real_ratio must lie in (0, 1], not {real_ratio}.")
        if updates_per_epoch % updates_per_step:
            raise UserError(
                f"updates_per_step ({updates_per_step}) must divide updates_per_epoch ({updates_per_epoch})."
            )
        self.batch_size = batch_size
        self.num_real = max(1, round(real_ratio * batch_size))
        self.num_synthetic = batch_size - self.num_real
        self.steps_per_epoch = updates_per_epoch // updates_per_step
        self.updates_per_step = updates_per_step
        self.synthetic_capacity = synthetic_capacity
        self.num_eval_episodes = num_eval_episodes
        self.eval_seed = eval_seed
        self.generator = torch.Generator()

    def setup(self, stage: str) -> None:
        if stage != "fit":
            return
        assert self.trainer is not None
        self.episodes = self.source.load()
        device = self.trainer.strategy.root_device
        self.real = self.episodes.transitions.to(device)
        self.synthetic = TransitionBuffer(self.synthetic_capacity, self.obs_dim, self.act_dim, device)
        self.generator.manual_seed(torch.initial_seed() + self.trainer.global_rank)

    @property
    def synthetic_share(self) -> float:
        """Share of synthetic transitions in the next minibatch: 0 while the buffer holds less than it."""
        return self.num_synthetic / self.batch_size if len(self.synthetic) >= self.num_synthetic else 0.0

    def sample(self) -> Transitions:
        """The next ``[updates_per_step, batch_size]`` stack of minibatches, drawn with replacement."""
        # One draw for the whole stack, row by row: minibatches do not depend on how many make a stack.
        drawn = torch.randint(2**62, (self.updates_per_step, self.batch_size), generator=self.generator)
        drawn = drawn.to(self.real.reward.device)
        if self.synthetic_share == 0:
            return self.real.at(drawn % len(self.real.reward))
        real = self.real.at(drawn[:, : self.num_real] % len(self.real.reward))
        synthetic = self.synthetic.at(drawn[:, self.num_real :] % len(self.synthetic))
        return Transitions(*(torch.cat(pair, dim=1) for pair in zip(real, synthetic, strict=True)))

    def train_dataloader(self) -> "DataLoader[Any]":
        return DataLoader(_Stacks(self), batch_size=None)

    def val_dataloader(self) -> "DataLoader[Any]":
        return self._seeds(self.eval_seed)

    def test_dataloader(self) -> "DataLoader[Any]":
        return self._seeds(self.eval_seed + self.num_eval_episodes)

    def _seeds(self, first: int) -> "DataLoader[Any]":
        seeds = torch.arange(first, first + self.num_eval_episodes)
        return DataLoader(seeds, self.num_eval_episodes)  # type: ignore[arg-type]

    def state_dict(self) -> dict[str, Any]:
        return {"generator": self.generator.get_state(), "synthetic": self.synthetic.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if not hasattr(self, "synthetic"):
            return  # a saved agent is only scored: no data are needed
        self.generator.set_state(state_dict["generator"])
        self.synthetic.load_state_dict(state_dict["synthetic"])


class _Stacks(Dataset[Transitions]):
    """An epoch of stacks. Workers would draw from copies of the buffer, so it is read in the training process."""

    def __init__(self, data: MixedDataModule) -> None:
        self.data = data

    def __len__(self) -> int:
        return self.data.steps_per_epoch

    def __getitem__(self, index: int) -> Transitions:
        return self.data.sample()
