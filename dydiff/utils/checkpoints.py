"""Checkpoints: written whole or not at all, read without executing anything."""

import re
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor

from dydiff.utils.errors import UserError, first_line
from dydiff.utils.files import replacing


class WholeCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoints, on the disk before they take their name: a crash or full disk leaves the one before."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write ``checkpoint``.

        Raises:
            UserError: It could not be written.
        """
        save(checkpoint, Path(path))

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The content, read as :func:`read_checkpoint` does."""
        return read_checkpoint(Path(path))


def save(content: dict[str, Any], path: Path) -> None:
    """``torch.save`` to a file, atomically.

    Raises:
        UserError: It could not be written.
    """
    try:
        with replacing(path) as part, part.open("wb") as file:
            torch.save(content, file)
    except (OSError, RuntimeError) as error:  # torch wraps some of the disk's errors
        raise UserError(
            f"{path} could not be written ({first_line(error)}). What was saved before is intact: free "
            "some space, and resume from it."
        ) from error


def load(path: Path, *keys: str) -> dict[str, Any]:
    """What :func:`save` wrote, tensors on the CPU; nothing in it is executed.

    Args:
        path: The file.
        keys: What must be in it.

    Raises:
        UserError: There is no such file, or it is damaged, or holds something else.
    """
    if re.match(r"[a-z]\w+:/", str(path)) and not path.is_file():
        raise UserError(
            f"A checkpoint must be a file of this machine, which {path} is not: download it, and name the file."
        )
    if not path.is_file():
        raise UserError(f"No checkpoint at {path.absolute()}.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        for key in keys:
            content[key]
    except Exception as error:  # torch raises many kinds for a damaged file
        raise UserError(
            f"{path} is damaged or not a checkpoint ({first_line(error)}). Use another, or train it again."
        ) from None
    return content


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint with finite weights under ``state_dict``.

    Raises:
        UserError: As in :func:`load`, or a weight is not a tensor of finite numbers.
    """
    content = load(path, "state_dict")
    weights = content["state_dict"]
    for key, value in weights.items() if isinstance(weights, dict) else [("state_dict", weights)]:
        if not isinstance(value, Tensor) or not bool(value.isfinite().all()):
            raise UserError(f"{path}: '{key}' is not made of finite numbers. Use another, or train it again.")
    return content


def check_weights(state: dict[str, Tensor], expected: dict[str, Tensor], path: Path | str, name: str) -> None:
    """Refuse weights that are not a module's.

    Raises:
        UserError: A tensor is missing, has another shape, or is one too many.
    """
    wrong = [key for key in expected if key not in state or state[key].shape != expected[key].shape]
    wrong += [key for key in state if key not in expected]
    if wrong:
        raise UserError(f"{path} does not hold a {name} of this task: {wrong[0]} differs.")


def publish(checkpoint: Path, target: Path) -> None:
    """Keep a checkpoint's weights, and nothing else of it, as ``target``."""
    save({"state_dict": read_checkpoint(checkpoint)["state_dict"]}, target)
