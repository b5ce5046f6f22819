"""Several processes, one batch: each computes a share of it, with the numbers that a single process would draw.

Batch sizes are global. All ranks have the same random state; each draws for the whole batch and takes its share, so a
training does not depend on how many ranks there are. With one process, every function here returns what it is given.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

Rows = TypeVar("Rows", Tensor, Sequence[Any])


def rank_and_count() -> tuple[int, int]:
    """This process's rank and how many there are; ``(0, 1)`` outside of a distributed training."""
    if not (dist.is_available() and dist.is_initialized()):
        return 0, 1
    return dist.get_rank(), dist.get_world_size()


def share(rows: Rows) -> Rows:
    """This rank's contiguous part of rows that every rank has; the parts differ by one row at most."""
    rank, count = rank_and_count()
    return rows[rank * len(rows) // count : (rank + 1) * len(rows) // count]


def draw(sampler: Callable[..., Tensor], shape: Sequence[int], dim: int = 0, **options: Any) -> Tensor:
    """This rank's share of random numbers for the whole batch.

    Args:
        sampler: ``sampler(shape, **options)``, as ``torch.randn``.
        shape: Of this rank's share.
        dim: Where the batch is.
        options: The sampler's own; given a ``generator``, the numbers are for this rank only.
    """
    rank, count = rank_and_count()
    if count == 1 or options.get("generator") is not None:
        return sampler(shape, **options)
    whole = list(shape)
    whole[dim] *= count
    return sampler(whole, **options).narrow(dim, rank * shape[dim], shape[dim])


def mean(values: Sequence[Tensor]) -> Sequence[Tensor]:
    """Mean of each tensor over ranks, in one message."""
    return _reduced(values, dist.ReduceOp.SUM, rank_and_count()[1])


def largest(values: Sequence[Tensor]) -> Sequence[Tensor]:
    """Maximum of each tensor over ranks, entry by entry, in one message."""
    return _reduced(values, dist.ReduceOp.MAX, 1)


def _reduced(values: Sequence[Tensor], operation: Any, divisor: int) -> Sequence[Tensor]:
    if rank_and_count()[1] == 1:
        return values
    message = torch.cat([value.detach().flatten() for value in values])
    dist.all_reduce(message, operation)
    parts = (message / divisor).split([value.numel() for value in values])
    return [part.view_as(value) for part, value in zip(parts, values, strict=True)]


def gather(rows: Tensor) -> Tensor:
    """All ranks' equally many rows, in the order of the ranks."""
    _, count = rank_and_count()
    if count == 1:
        return rows
    parts = [torch.empty_like(rows) for _ in range(count)]
    dist.all_gather(parts, rows.contiguous())
    return torch.cat(parts)


def gather_objects(item: Any) -> list[Any]:
    """Every rank's item, tensors on the CPU."""
    _, count = rank_and_count()
    items = [item] * count
    if count > 1:
        dist.all_gather_object(items, item)
    return items


def is_loss_of_peer(error: Exception) -> bool:
    """Whether an error means that another rank is gone."""
    matches = any(
        words in str(error) for words in ("Connection closed by peer", "Connection reset by peer", "Broken pipe")
    )
    return rank_and_count()[1] > 1 and (isinstance(error, dist.DistError) or matches)
