from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

GOLDEN = Path(__file__).parent / "golden"
ROOT = Path(__file__).parent.parent

torch.set_num_threads(1)  # on tiny tensors, threads that wait for each other on a busy machine take most of the time


@pytest.fixture
def golden():
    """Numbers computed with other people's code, as torch tensors of their own precision."""

    def load(name):
        with np.load(GOLDEN / f"{name}.npz") as arrays:
            return {key: torch.from_numpy(arrays[key]) for key in arrays if arrays[key].dtype.kind in "fbi"}

    return load


@pytest.fixture
def write_dataset(tmp_path):
    """Writes a Hopper-shaped file in D4RL's layout; keyword arguments replace or (as ``None``) remove a key."""

    def write(lengths=(5, 40, 3), name="tiny.hdf5", seed=0, attrs=None, **replaced):
        random = np.random.default_rng(seed)
        count = sum(lengths)
        obs = random.normal(size=(count + len(lengths), 11)).astype(np.float32)
        rows, terminals, timeouts, base = [], np.zeros(count, bool), np.zeros(count, bool), 0
        for episode, length in enumerate(lengths):
            rows += range(base + episode, base + episode + length)
            base += length
            (timeouts if episode % 2 else terminals)[base - 1] = True
        rows = np.array(rows)
        arrays = {
            "observations": obs[rows],
            "actions": random.uniform(-1, 1, (count, 3)).astype(np.float32),
            "rewards": random.normal(size=count).astype(np.float32),
            "next_observations": obs[rows + 1],
            "terminals": terminals,
            "timeouts": timeouts,
        } | replaced
        path = tmp_path / name
        with h5py.File(path, "w") as file:
            for key, value in arrays.items():
                if value is not None:
                    file[key] = value
            file.attrs.update({"env_id": "Hopper-v4"} if attrs is None else attrs)
        return path

    return write


@pytest.fixture(autouse=True)
def _seeded(monkeypatch):
    torch.manual_seed(0)
