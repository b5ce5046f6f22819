"""The agents' data module: minibatches of real and synthetic transitions, mixed by the real ratio (eta)."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from dydiff.data.buffer import TransitionBuffer
from dydiff.data.datamodules import OfflineDataModule
from dydiff.data.episodes import Batch, Episodes, Transitions, at_rows
from dydiff.data.source import EpisodeSource
from dydiff.utils import distributed
from dydiff.utils.errors import UserError, at_least
from dydiff.utils.seeding import seed_of


class MixedDataModule(OfflineDataModule):
    """Stacks of ``updates_per_step`` minibatches of real transitions, and of synthetic ones once :meth:`mix` is called.

    While the synthetic buffer contains less than its share of one minibatch, minibatches are all real. Validation and
    test batches are seeds of the episodes to play.

    Args:
        source: Where the real dataset comes from.
        batch_size: Transitions of a minibatch, of all ranks together.
        updates_per_epoch: Gradient updates of an epoch.
        updates_per_step: Gradient updates of one training step (K); must divide ``updates_per_epoch``.
        num_eval_episodes: Episodes of an evaluation.
        eval_seed: Seed of the first validation episode; the test's episodes are others.
    """

    episodes: Episodes

    def __init__(
        self,
        source: EpisodeSource,
        batch_size: int = 256,
        updates_per_epoch: int = 500,
        updates_per_step: int = 50,
        num_eval_episodes: int = 10,
        eval_seed: int = 0,
    ) -> None:
        super().__init__(source)
        sizes = {"batch_size": batch_size, "updates_per_epoch": updates_per_epoch, "updates_per_step": updates_per_step}
        at_least(1, **sizes, num_eval_episodes=num_eval_episodes)
        at_least(0, eval_seed=eval_seed)
        if updates_per_epoch % updates_per_step:
            raise UserError(
                f"updates_per_step ({updates_per_step}) must divide updates_per_epoch ({updates_per_epoch})."
            )
        self.batch_size = batch_size
        self.steps_per_epoch = updates_per_epoch // updates_per_step
        self.updates_per_step = updates_per_step
        self.num_eval_episodes = num_eval_episodes
        self.eval_seed = eval_seed
        self.generator = torch.Generator()
        self.mix(1.0, 0)

    def setup(self, stage: str) -> None:
        if stage != "fit":
            return
        assert self.trainer is not None
        self.episodes = self.source.load()
        device = self.trainer.strategy.root_device
        self.real = self.episodes.transitions.to(device)
        self.is_last = self.episodes.is_last.to(device)
        self.run_seed = distributed.gather_objects(torch.initial_seed())[0]

    @property
    def obs_statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each state dimension of the dataset, ``[O]`` each."""
        obs = self.episodes.transitions.obs
        return obs.mean(0), obs.std(0, correction=0)

    @property
    def return_range(self) -> tuple[float, float]:
        """Least and largest undiscounted return of the dataset's episodes."""
        return float(self.episodes.returns.min()), float(self.episodes.returns.max())

    def mix(self, real_ratio: float | None, synthetic_capacity: int, keep_in_checkpoints: bool = True) -> None:
        """Let minibatches be ``real_ratio`` real and the rest synthetic, from an empty buffer.

        Args:
            real_ratio: Share of real transitions (eta), in [0, 1]; ``None`` draws from all transitions alike.
            synthetic_capacity: Capacity of the synthetic buffer in transitions; then the oldest are overwritten.
            keep_in_checkpoints: Whether checkpoints contain the buffer; if False, the caller regenerates it on resume.
        """
        self.keep_in_checkpoints = keep_in_checkpoints
        device = "cpu" if self.trainer is None else self.trainer.strategy.root_device
        self.real_ratio = real_ratio
        self.num_real = self.batch_size if real_ratio is None else round(real_ratio * self.batch_size)
        if real_ratio:
            self.num_real = max(1, self.num_real)
        self.synthetic = TransitionBuffer(synthetic_capacity, self.obs_dim, self.act_dim, device)

    @property
    def updates_per_epoch(self) -> int:
        return self.steps_per_epoch * self.updates_per_step

    @property
    def synthetic_share(self) -> float:
        """Share of synthetic transitions in the next minibatch: 0 while the buffer contains less than it."""
        if self.real_ratio is None:
            return len(self.synthetic) / (len(self.synthetic) + len(self.real.reward))
        wanted = self.batch_size - self.num_real
        return wanted / self.batch_size if len(self.synthetic) >= wanted else 0.0

    @property
    def max_abs_reward(self) -> float:
        """Largest absolute reward, real or synthetic."""
        rewards = (self.real.reward, self.synthetic.at(slice(0, len(self.synthetic))).reward)
        return max(float(reward.abs().max()) for reward in rewards if len(reward))

    def sample(self) -> Batch:
        """This rank's share of the next ``[updates_per_step, batch_size]`` minibatches, drawn with replacement.

        Without a ``real_ratio`` real and synthetic transitions come in no order, otherwise the real ones come first.
        """
        # One draw for the stack, row by row: minibatches depend neither on the stack size nor on the number of ranks.
        drawn = torch.randint(2**62, (self.updates_per_step, self.batch_size), generator=self.generator)
        columns = torch.tensor(distributed.share(range(self.batch_size)))
        drawn = drawn[:, columns].to(self.real.reward.device)
        num_real, num_synthetic = len(self.real.reward), len(self.synthetic)
        if self.synthetic_share == 0:
            rows = drawn % num_real
            return Batch(*self.real.at(rows), torch.ones_like(rows, dtype=torch.bool), self.next_act(rows))
        if self.real_ratio is None:
            rows = drawn % (num_real + num_synthetic)
            is_real = rows < num_real
            real = self.real.at(rows.clamp(max=num_real - 1))
            synthetic = self.synthetic.at((rows - num_real).clamp(min=0))
            next_act = self.next_act(rows.clamp(max=num_real - 1)).where(is_real[..., None], torch.nan)
            return Batch(*real.where(is_real, synthetic), is_real, next_act)
        is_real = (columns < self.num_real).to(drawn.device).expand_as(drawn)
        count = int((columns < self.num_real).sum())
        rows = drawn[:, :count] % num_real
        real = self.real.at(rows)
        synthetic = self.synthetic.at(drawn[:, count:] % num_synthetic)
        joined = Transitions(*(torch.cat(pair, dim=1) for pair in zip(real, synthetic, strict=True)))
        unknown = torch.full_like(synthetic.act, torch.nan)
        return Batch(*joined, is_real, torch.cat([self.next_act(rows), unknown], dim=1))

    def next_act(self, rows: Tensor) -> Tensor:
        """The action that follows the steps at ``rows``, ``[..., A]``; NaN after the last step of an episode."""
        following = at_rows(self.real.act, (rows + 1).clamp(max=len(self.real.reward) - 1))
        return following.masked_fill(self.is_last[rows][..., None], torch.nan)

    def train_dataloader(self) -> "_Stacks":
        return _Stacks(self)

    def val_dataloader(self) -> "DataLoader[Any]":
        return self._seeds(self.eval_seed)

    def test_dataloader(self) -> "DataLoader[Any]":
        return self._seeds(self.test_seed)

    @property
    def test_seed(self) -> int:
        """Seed of the first test episode."""
        return self.eval_seed + self.num_eval_episodes

    def _seeds(self, first: int) -> "DataLoader[Any]":
        # DataLoader draws a worker seed even without workers; a private generator keeps that off the global RNG.
        seeds = torch.arange(first, first + self.num_eval_episodes)
        return DataLoader(seeds, self.num_eval_episodes, generator=torch.Generator())  # type: ignore[arg-type]

    def state_dict(self) -> dict[str, Any]:
        return {"synthetic": self.synthetic.state_dict()} if self.keep_in_checkpoints else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if not hasattr(self, "episodes"):
            return  # a saved agent is only scored: no data are needed
        if "synthetic" not in state_dict:
            return
        saved, room = len(state_dict["synthetic"]["reward"]), self.synthetic.capacity
        if saved > room:
            raise UserError(
                f"The checkpoint contains {saved:,} synthetic transitions, but this run has a capacity of {room:,}: "
                "resume it with the rollout and the synthetic_capacity that it was made with."
            )
        self.synthetic.load_state_dict(state_dict["synthetic"])


class _Stacks:
    """An epoch of stacks, whose random numbers depend only on the run's seed and the epoch.

    They are drawn in the training process: a loader's workers would draw from copies of the buffer.
    """

    def __init__(self, data: MixedDataModule) -> None:
        self.data = data

    def __len__(self) -> int:
        return self.data.steps_per_epoch

    def __iter__(self) -> Iterator[Batch]:
        assert self.data.trainer is not None
        self.data.generator.manual_seed(seed_of(self.data.run_seed, self.data.trainer.current_epoch, 0))
        for _ in range(len(self)):
            yield self.data.sample()
