"""DyDiff: on-policy data for offline reinforcement learning, made by dynamics diffusion."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dydiff.cli.load import Run, load_model, load_run

__all__ = ["Run", "__version__", "load_model", "load_run"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import torch and the rest only where they are used: the command line sets what they read at their start."""
    if name in ("Run", "load_model", "load_run"):
        from dydiff.cli import load

        return getattr(load, name)
    raise AttributeError(f"module 'dydiff' has no attribute '{name}'")
