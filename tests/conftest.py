from pathlib import Path

import numpy as np
import pytest
import tiny
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
    """:func:`tiny.write_dataset` into the test's folder."""
    return lambda lengths=(5, 40, 3), name="tiny.hdf5", **kwargs: tiny.write_dataset(tmp_path / name, lengths, **kwargs)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working directory with the configs of a run that takes seconds."""
    monkeypatch.chdir(tmp_path)
    tiny.write_run(tmp_path)
    return tmp_path


@pytest.fixture(autouse=True)
def _seeded(monkeypatch):
    torch.manual_seed(0)
