"""Which ways to save time a command takes on the machine that it runs on."""

import os
import shutil
from typing import Literal

import lightning as L
import torch
from jsonargparse import ArgumentParser
from jsonargparse.typing import PositiveInt
from lightning.pytorch.utilities import rank_zero_info

from dydiff.agents.base import Agent

COMPILE_FROM = 20_000
"""Updates from which compiling them pays back: it takes seconds to a minute, and saves a quarter of each."""


def add_arguments(parser: ArgumentParser) -> None:
    """What a command takes."""
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


def accelerate(agent: Agent, trainer: L.Trainer, compiles: bool | Literal["auto"], num_updates: int) -> None:
    """Compile an agent's updates and overlap its evaluations where that pays.

    Args:
        agent: The agent.
        trainer: Of its fit.
        compiles: Whether to compile; ``auto``: where there are enough updates.
        num_updates: How many there will be.
    """
    if compiles == "auto":
        compiles = pays_to_compile(trainer, num_updates)
    agent.compile_backend = "inductor" if compiles else None
    agent.overlap_evaluation |= pays_to_overlap_evaluation(trainer)


def pays_to_compile(trainer: L.Trainer, num_updates: int) -> bool:
    """Whether to compile the agent's updates; says why not where they are many enough."""
    if num_updates < COMPILE_FROM:
        return False
    missing = not _on_accelerator(trainer) and not any(
        map(shutil.which, (os.environ.get("CXX", "c++"), "g++", "clang++"))
    )
    if trainer.world_size > 1 or missing:
        rank_zero_info(f"The updates run uncompiled: {'no C++ compiler' if missing else 'several ranks'}.")
        return False
    return True


def pays_to_overlap_evaluation(trainer: L.Trainer) -> bool:
    """Whether to evaluate on the CPU beside the updates: these run elsewhere, and no callback waits for a score."""
    monitors = [str(getattr(callback, "monitor", None)) for callback in trainer.callbacks]  # type: ignore[attr-defined]
    return _on_accelerator(trainer) and not any(monitor.startswith("eval/") for monitor in monitors)


def set_threads(threads: int | Literal["auto"], trainer: L.Trainer) -> int:
    """Set the threads of torch's operators on the CPU.

    Args:
        threads: How many; ``auto`` is 1 where the CPU does the work: on small networks, threads that wait for each
            other on a busy machine take most of the time. Where an accelerator does it, torch's default stays.
        trainer: Says where the work is done.

    Returns:
        How many there were before.
    """
    before = torch.get_num_threads()
    if threads != "auto":
        torch.set_num_threads(threads)
    elif not _on_accelerator(trainer):
        torch.set_num_threads(1)
    return before


def _on_accelerator(trainer: L.Trainer) -> bool:
    return trainer.strategy.root_device.type != "cpu"
