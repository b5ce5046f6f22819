"""A run's synthetic data as a dataset that any library reads."""

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import yaml
from tiny import QUIET
from torch import nn
from whole_run import fit

import dydiff
from dydiff.cli import main
from dydiff.data.local import LocalSource
from dydiff.data.termination import ended


@pytest.fixture
def run(place):
    assert fit("--trainer.max_epochs=1") == 0
    return "runs/run/version_0"


def generate(run, out, *options):
    return main(["generate", "--run", run, "--out", out, "--num_trajectories=600", *options])


def read(path):
    with h5py.File(path) as file:
        return {name: file[name][:] for name in file}


@pytest.mark.parametrize("ending", ["hdf5", "npz"])
def test_a_file_is_the_runs_trajectories_and_loads_as_a_dataset(run, ending, capsys):
    out = f"made.{ending}"
    assert generate(run, out, "--seed=3") == 0
    made = dydiff.load_run(run).rollout(num_trajectories=600, seed=3)
    expected = made.transitions()
    source = LocalSource(path=out, env_id="Hopper-v4")
    data, task = source.load(), source.task
    assert data.lengths.tolist() == made.lengths.tolist()
    for name in ("obs", "act", "reward", "next_obs", "terminal"):
        torch.testing.assert_close(getattr(data.transitions, name), getattr(expected, name), rtol=0, atol=0)
    told = ended(task.terminated, data.transitions.obs, data.transitions.act, data.transitions.next_obs)
    assert torch.equal(told, data.transitions.terminal) and 0 < told.sum() < len(told)
    card = yaml.safe_load(Path(f"{out}.yaml").read_text())
    assert card["num_updates"] == 6 and card["seed"] == 3 and card["dataset"] == "hopper"
    assert card["written"]["transitions"] == len(data) and card["synthesizer"]["class_path"].endswith("DyDiff")
    assert card["written"]["mean_predicted_return"] == pytest.approx(float(made.returns.mean()), rel=1e-5)
    assert f"{len(data):,} transitions of 600 trajectories are in {out}" in capsys.readouterr().out


def test_the_same_seed_gives_the_same_numbers_and_transitions_are_rows_of_their_own(run):
    assert generate(run, "one.hdf5") == generate(run, "two.hdf5", "--as_transitions=true") == 0
    one, two = read("one.hdf5"), read("two.hdf5")
    for name in ("observations", "actions", "rewards", "next_observations", "terminals"):
        np.testing.assert_array_equal(one[name], two[name])
    assert (two["terminals"] ^ two["timeouts"]).all() and not (one["terminals"] ^ one["timeouts"]).all()
    assert generate(run, "three.hdf5", "--seed=1") == 0
    assert not np.array_equal(read("three.hdf5")["observations"][:50], one["observations"][:50])


def test_agents_train_on_the_file(run):
    """One of this package by its command line, and one that knows nothing of it."""
    assert generate(run, "made.hdf5") == 0
    source = ["--data.source=LocalSource", "--data.source.path=made.hdf5"]
    assert fit("--rollout=null", "--name=on_synthetic", "--trainer.max_epochs=1", *source, *QUIET) == 0
    data = {name: torch.from_numpy(array).float() for name, array in read("made.hdf5").items()}
    policy = nn.Linear(11, 3)
    optimizer = torch.optim.Adam(policy.parameters(), 0.05)
    losses = []
    for _ in range(60):
        loss = nn.functional.mse_loss(policy(data["observations"]).tanh(), data["actions"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    assert losses[-1] < 0.3 * losses[0]


def test_what_cannot_be_generated_leaves_nothing(run, capsys):
    for options, message in (
        (["--out=made.csv"], "made.csv must end in .hdf5 or .npz."),
        (["--out=made.hdf5", "--num_trajectories=0"], "num_trajectories must be at least 1"),
        (["--out=made.hdf5", "--run=runs/nothing"], "is not the folder of an agent's run"),
        (["--out=made.hdf5", "--checkpoint=nothing.ckpt"], "No checkpoint at"),
    ):
        assert main(["generate", "--run", run, *options]) == 2
        error = capsys.readouterr().err
        assert message in error
    assert fit("--rollout=null", "--trainer.max_epochs=1", "--name=base") == 0
    assert main(["generate", "--run", "runs/base", "--out=made.hdf5"]) == 2
    assert "was trained without synthetic data" in capsys.readouterr().err
    assert not list(Path().glob("made*"))
