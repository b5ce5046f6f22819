"""Which ways to save time a fit takes on the machine that it runs on."""

import os
import shutil

import lightning as L
from lightning.pytorch.utilities import rank_zero_info

COMPILE_FROM = 20_000
"""Updates from which compiling them pays back: it takes seconds to a minute, and saves a quarter of each."""


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


def _on_accelerator(trainer: L.Trainer) -> bool:
    return trainer.strategy.root_device.type != "cpu"
