"""Write datasets in D4RL's layout."""

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import h5py
import mujoco
import numpy as np

from dydiff.utils.files import replacing


def write_dataset(path: Path, arrays: Mapping[str, np.ndarray], env_id: str, recipe: str) -> None:
    """Write arrays atomically, with attributes that say how they were collected.

    Args:
        path: The HDF5 file.
        arrays: ``observations [N, O]``, ``actions [N, A]``, ``rewards [N]``, ``next_observations``, ``terminals``,
            ``timeouts``, and any further ones.
        env_id: Gymnasium id of the environment.
        recipe: How they were made.
    """
    with replacing(path) as part, h5py.File(part, "w") as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array, compression="gzip", compression_opts=4, fletcher32=True)
        file.attrs["env_id"] = env_id
        file.attrs["recipe"] = recipe
        file.attrs["made_with"] = f"dydiff {version('dydiff')}, mujoco {mujoco.__version__}"
        file.attrs["mujoco2_contacts"] = True
