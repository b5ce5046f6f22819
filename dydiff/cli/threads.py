"""How many threads torch uses on the CPU while a command trains or scores."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import lightning as L
import torch


@contextmanager
def torch_threads(count: int | Literal["auto"], trainer: L.Trainer) -> Iterator[None]:
    """Set the threads of torch's operators on the CPU, and restore them afterwards.

    Args:
        count: How many. ``auto`` is 1 where the CPU does the work: with small networks on a busy machine, threads that
            wait for each other take most of the time. Where an accelerator does it, torch's default stays.
        trainer: Says where the work is done.
    """
    before = torch.get_num_threads()
    if count != "auto":
        torch.set_num_threads(count)
    elif trainer.strategy.root_device.type == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
