"""Lightning data modules: transitions and windows to train the models on."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from dydiff.data.episodes import Episodes, Transitions, Windows
from dydiff.data.source import EpisodeSource
from dydiff.data.tasks import Task
from dydiff.utils import distributed
from dydiff.utils.errors import UserError, at_least


class OfflineDataModule(L.LightningDataModule):
    """A data module over one dataset. The command line links ``obs_dim`` and ``act_dim`` to the model.

    Args:
        source: Where the dataset comes from.
    """

    batch_size: int

    def __init__(self, source: EpisodeSource) -> None:
        super().__init__()
        self.source = source

    def check_ranks(self, count: int) -> None:
        """Refuse a batch that ``count`` ranks cannot share evenly.

        Raises:
            UserError: ``count`` does not divide ``batch_size``.
        """
        if self.batch_size % count:
            raise UserError(f"batch_size ({self.batch_size}) is shared by {count} devices, which must divide it.")

    @property
    def task(self) -> Task:
        return self.source.task

    @property
    def obs_dim(self) -> int:
        return self.task.obs_dim

    @property
    def act_dim(self) -> int:
        return self.task.act_dim


class PretrainingDataModule(OfflineDataModule, ABC):
    """Training and holdout batches for one pretrained model; the holdout contains complete episodes.

    Args:
        source: Where the dataset comes from.
        batch_size: Items of a training batch, of all ranks together.
        batches_per_epoch: Training batches of an epoch, drawn with replacement; ``null`` uses every item once and
            drops a last batch that is not full.
        holdout_fraction: Fraction of the episodes held out, in (0, 1).
        max_holdout_items: The holdout is thinned evenly to this many items at most.
        split_seed: Seed of the choice of the held-out episodes.

    Attributes:
        episodes: The dataset.
        train_episodes: int64 ``[E]``, indices of its episodes to train on.
        holdout_episodes: int64 ``[H]``, indices of the others.
    """

    episodes: Episodes
    train_episodes: Tensor
    holdout_episodes: Tensor

    def __init__(
        self,
        source: EpisodeSource,
        batch_size: int = 256,
        batches_per_epoch: int | None = None,
        holdout_fraction: float = 0.1,
        max_holdout_items: int = 10_000,
        split_seed: int = 0,
    ) -> None:
        super().__init__(source)
        if not 0 < holdout_fraction < 1:
            raise UserError(f"holdout_fraction must be in (0, 1), not {holdout_fraction}.")
        at_least(1, batch_size=batch_size, batches_per_epoch=batches_per_epoch, max_holdout_items=max_holdout_items)
        self.batch_size = batch_size
        self.batches_per_epoch = batches_per_epoch
        self.holdout_fraction = holdout_fraction
        self.max_holdout_items = max_holdout_items
        self.split_seed = split_seed

    def setup(self, stage: str) -> None:
        self.episodes = self.source.load()
        self.train_episodes, self.holdout_episodes = self.episodes.split(self.holdout_fraction, self.split_seed)
        if len(self.episodes.lengths) == 1:
            rank_zero_info(
                f"{self.source.name} has one episode, for both training and holdout: the loss is not informative."
            )

    @abstractmethod
    def items(self, chosen: Tensor) -> "Items":
        """The items of a batch, from the episodes at ``chosen [E]``."""

    def train_dataloader(self) -> "DataLoader[Any]":
        items = self.items(self.train_episodes)
        batches = _Batches(len(items), self.batch_size, self.batches_per_epoch)
        # A DataLoader draws a seed for workers even without any: a private generator keeps that off the training's.
        return DataLoader(items, batch_sampler=batches, collate_fn=_identity, generator=torch.Generator())

    def val_dataloader(self) -> "DataLoader[Any]":
        items = self.items(self.holdout_episodes)
        step = -(-len(items) // self.max_holdout_items)
        chosen = range(0, len(items), step)
        size = max(self.batch_size, 1024)
        return DataLoader(items, size, sampler=chosen, collate_fn=_identity, generator=torch.Generator())


class TransitionDataModule(PretrainingDataModule):
    """Batches of :class:`Transitions`, for the dynamics and the reward model."""

    def items(self, chosen: Tensor) -> "Items":
        return _TransitionItems(self.episodes, self.episodes.rows(chosen))


class WindowDataModule(PretrainingDataModule):
    """Batches of :class:`Windows`. An episode shorter than the horizon gives one window, padded.

    Args:
        source: Where the dataset comes from.
        horizon: Length of a window, in steps. The command line links it to the model's ``horizon``.
        pad_windows: Windows start at every row and are padded past their episode's end, where no loss counts. A
            rollout may start from any of these rows. Otherwise a window is within its episode (eq. 2), and none starts
            at the last ``horizon - 1`` rows of an episode.
        **options: See :class:`PretrainingDataModule`.
    """

    def __init__(self, source: EpisodeSource, horizon: int, pad_windows: bool = False, **options: Any) -> None:
        super().__init__(source, **options)
        at_least(1, horizon=horizon)
        self.horizon = horizon
        self.pad_windows = pad_windows

    def setup(self, stage: str) -> None:
        super().setup(stage)
        longest = int(self.episodes.lengths[self.train_episodes].max())
        if longest < self.horizon:
            raise UserError(
                f"No training episode of {self.source.name} has the horizon's {self.horizon} steps, the longest has "
                f"{longest}: copy the denoiser's config, lower 'horizon' in it, and name it in the rollout's file, "
                "with a 'rollout_length' no longer than that."
            )

    def items(self, chosen: Tensor) -> "Items":
        rows = self.episodes.window_starts(self.horizon, chosen, self.pad_windows)
        return _WindowItems(self.episodes, rows, self.horizon)


class Items(Dataset[Any], ABC):
    """Items that are gathered one batch at a time.

    Args:
        episodes: The dataset.
        rows: First row of each item.
    """

    def __init__(self, episodes: Episodes, rows: Tensor) -> None:
        self.episodes = episodes
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    @abstractmethod
    def __getitems__(self, index: Tensor | Sequence[int]) -> Any: ...


class _TransitionItems(Items):
    def __getitems__(self, index: Tensor | Sequence[int]) -> Transitions:
        return self.episodes.transitions.at(self.rows[torch.as_tensor(index)])


class _WindowItems(Items):
    def __init__(self, episodes: Episodes, rows: Tensor, horizon: int) -> None:
        super().__init__(episodes, rows)
        self.horizon = horizon

    def __getitems__(self, index: Tensor | Sequence[int]) -> Windows:
        return self.episodes.windows(self.rows[torch.as_tensor(index)], self.horizon)


class _Batches(Sampler[Any]):
    """This rank's share of each batch; the order of the items is the same on all ranks.

    Args:
        num_items: Items to choose from.
        batch_size: Of all ranks together.
        num_batches: Batches of an epoch, drawn with replacement; ``None`` uses every item once.
    """

    def __init__(self, num_items: int, batch_size: int, num_batches: int | None) -> None:
        self.num_items = num_items
        self.batch_size = batch_size
        self.num_batches = num_batches

    def __len__(self) -> int:
        return max(1, self.num_items // self.batch_size) if self.num_batches is None else self.num_batches

    def __iter__(self) -> Iterator[Any]:
        if self.num_batches is None:
            order = torch.randperm(self.num_items)
        else:
            order = torch.randint(self.num_items, (self.num_batches * self.batch_size,))
        for batch in order.split(self.batch_size)[: len(self)]:
            yield distributed.share(batch)


def _identity(batch: Any) -> Any:
    return batch
