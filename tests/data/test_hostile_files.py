"""Damaged datasets: each ends in a clear error or loads as it should; no traceback, no crash, no hang, no garbage."""

import json
import subprocess
import sys

import h5py
import numpy as np
import pytest
from conftest import ROOT

from dydiff.data.local import LocalSource
from dydiff.utils.errors import UserError

# Run by a child process, so that a crash or a hang of the HDF5 library is an outcome like any other.
CHILD = """
import json, sys
from dydiff.data.local import LocalSource
from dydiff.utils.errors import UserError
for path in sys.argv[1:]:
    try:
        outcome = LocalSource(path=path).load().fingerprint
    except UserError as error:
        outcome = f"error: {error}"
    print(json.dumps([path, outcome]), flush=True)
"""


def damage(whole, kind, random):
    """One random damage of a file's bytes."""
    at = int(random.integers(len(whole)))
    if kind == "cut":
        return whole[:at]
    changed = bytearray(whole)
    if kind == "flip":
        changed[at] ^= 1 << int(random.integers(8))
    elif kind == "zero":
        changed[at : at + 64] = bytes(len(changed[at : at + 64]))
    elif kind == "noise":
        changed[at : at + 16] = random.bytes(len(changed[at : at + 16]))
    elif kind == "swap":
        other = int(random.integers(len(whole) - 32))
        changed[at : at + 32], changed[other : other + 32] = changed[other : other + 32], changed[at : at + 32]
    return bytes(changed)


def test_five_hundred_damaged_files(write_dataset, tmp_path):
    """Gzip with checksums, as `collect` writes: what loads is what was written."""
    plain = write_dataset(name="plain.hdf5")
    whole = tmp_path / "whole.hdf5"
    with h5py.File(plain) as source, h5py.File(whole, "w") as file:
        for key, array in source.items():
            file.create_dataset(key, data=array[()], compression="gzip", fletcher32=True)
        file.attrs["env_id"] = "Hopper-v4"
    right = LocalSource(path=str(whole)).load().fingerprint
    random, content, paths = np.random.default_rng(0), whole.read_bytes(), []
    for number in range(500):
        kind = ("cut", "flip", "zero", "noise", "swap")[number % 5]
        path = tmp_path / f"{number}-{kind}.hdf5"
        path.write_bytes(damage(content, kind, random))
        paths.append(str(path))
    child = subprocess.run(
        [sys.executable, "-c", CHILD, *paths], capture_output=True, text=True, timeout=240, cwd=ROOT, check=False
    )
    outcomes = dict(json.loads(line) for line in child.stdout.splitlines())
    left = [path for path in paths if path not in outcomes]
    assert not left, f"the process ended at {left[0]}: {child.stderr[-2000:]}"
    garbage = {path: outcome for path, outcome in outcomes.items() if not outcome.startswith("error: ")}
    garbage = {path: outcome for path, outcome in garbage.items() if outcome != right}
    assert not garbage, garbage
    errors = [outcome for outcome in outcomes.values() if outcome.startswith("error: ")]
    assert len(errors) > 150 and all("\n" not in error for error in errors)


ODD = {
    "text": np.array([b"a"] * 48),
    "objects": np.zeros(48, dtype=[("x", "f4"), ("y", "i4")]),
    "complex": np.zeros(48, np.complex64),
    "flat": np.zeros(48 * 11, np.float32),
    "short": np.zeros((47, 11), np.float32),
    "scalar": np.float32(3),
    "empty": np.zeros((0, 11), np.float32),
    "nan": np.full((48, 11), np.nan, np.float32),
    "infinite": np.full((48, 11), np.inf, np.float64),
    "too large for float32": np.full((48, 11), 1e300),
    "four axes": np.zeros((48, 11, 1, 1), np.float32),
}


@pytest.mark.parametrize("key", ["observations", "actions", "rewards", "terminals", "timeouts", "next_observations"])
@pytest.mark.parametrize("odd", ODD)
def test_arrays_that_are_not_what_they_should_be(write_dataset, key, odd):
    path = write_dataset(**{key: ODD[odd]})
    try:
        episodes = LocalSource(path=str(path)).load()
    except UserError as error:
        assert str(path) in str(error) and "\n" not in str(error)
    else:  # what fits after all: flags as numbers
        assert odd in ("nan", "infinite", "flat") or key in ("terminals", "timeouts"), odd
        assert len(episodes) == 48 and all(value.isfinite().all() for value in episodes.transitions)


def test_states_that_are_all_zero(write_dataset):
    observations = np.ones((48, 11), np.float32)
    observations[[7, 9]] = 0
    with pytest.raises(UserError, match="2 states are all zero, the first in row 7"):
        LocalSource(path=str(write_dataset(observations=observations))).load()


def test_an_end_that_nobody_marked(write_dataset):
    """A row whose next state is not the next row's state ends its episode, by a time limit."""
    right = LocalSource(path=str(write_dataset())).load()
    unmarked = LocalSource(path=str(write_dataset(name="unmarked.hdf5", timeouts=None))).load()
    assert unmarked.lengths.tolist() == right.lengths.tolist() and unmarked.fingerprint == right.fingerprint


def test_ends_that_cannot_be_known(write_dataset):
    no_falls = np.zeros(48, bool)
    path = write_dataset(timeouts=None, next_observations=None, terminals=no_falls)
    with pytest.raises(UserError, match="neither timeouts nor next_observations: where its episodes end is unknown"):
        LocalSource(path=str(path)).load()


def test_a_group_in_the_place_of_an_array(write_dataset):
    path = write_dataset(rewards=None)
    with h5py.File(path, "a") as file:
        file.create_group("rewards")
    with pytest.raises(UserError, match="has no rewards"):
        LocalSource(path=str(path)).load()


def test_an_npz_that_holds_pickles_is_not_opened(tmp_path):
    path = tmp_path / "evil.npz"
    np.savez(path, **{key: np.array([{}], object) for key in ("observations", "actions", "rewards", "terminals")})
    with pytest.raises(UserError, match="not a readable"):
        LocalSource(path=str(path), env_id="Hopper-v4").load()


def test_text_in_the_place_of_a_file(tmp_path):
    for name in ("notes.hdf5", "notes.npz"):
        path = tmp_path / name
        path.write_text("no data")
        with pytest.raises(UserError, match="not a readable"):
            LocalSource(path=str(path), env_id="Hopper-v4").load()
