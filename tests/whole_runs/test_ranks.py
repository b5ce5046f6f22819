"""Two processes, which must do what one does."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch
import torch.distributed as dist
from agents import AGENTS
from conftest import ROOT
from faults import differences, finish, fork, outcome, start
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch.utilities import rank_zero_only
from tiny import QUIET, write_run

from dydiff.data.episodes import Batch
from dydiff.run.pretraining import PretrainedModel
from dydiff.testing.training import random_batches, train
from dydiff.utils import distributed

TWO = ("--config", str(ROOT / "configs/ddp.yaml"), "--trainer.accelerator=cpu", "--trainer.devices=2")


@given(length=st.integers(0, 50), count=st.integers(1, 7))
def test_shares_make_up_the_whole(length, count):
    with pytest.MonkeyPatch.context() as patch:
        shares = []
        for rank in range(count):
            patch.setattr(distributed, "rank_and_count", lambda rank=rank: (rank, count))
            shares.append(distributed.share(range(length)))
    assert [row for each in shares for row in each] == list(range(length))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("dim", [0, 1])
def test_ranks_draw_what_one_process_draws(monkeypatch, dim):
    torch.manual_seed(3)
    whole = distributed.draw(torch.randn, (4, 6), dim=dim)
    drawn, shape = [], (2, 6) if dim == 0 else (4, 3)
    for rank in range(2):
        monkeypatch.setattr(distributed, "rank_and_count", lambda rank=rank: (rank, 2))
        torch.manual_seed(3)
        drawn.append(distributed.draw(torch.randn, shape, dim=dim))
    torch.testing.assert_close(torch.cat(drawn, dim), whole, atol=0, rtol=0)
    own = distributed.draw(torch.randn, (3,), generator=torch.Generator().manual_seed(1))  # a rollout's own numbers
    torch.testing.assert_close(own, torch.randn(3, generator=torch.Generator().manual_seed(1)), atol=0, rtol=0)


def _train_share(rank, count, name, folder):
    torch.set_num_threads(1)
    if count > 1:
        dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=count)
    torch.manual_seed(0)
    agent_class, settings, _ = AGENTS[name]
    agent = agent_class(4, 2, (16, 16), **settings)
    batches = random_batches(8)
    columns = torch.tensor(distributed.share(range(32)))
    logged = train(agent, Batch(*(value[:, columns] for value in batches)), updates_per_step=2)
    torch.save((agent.state_dict(), logged), f"{folder}/{count}-{rank}.pt")


@pytest.mark.parametrize("agent", AGENTS)
def test_agents_do_not_depend_on_the_number_of_ranks(agent, tmp_path):
    """Updates, and the metrics that are logged of them."""
    for job in [fork(_train_share, *who, agent, tmp_path) for who in ((0, 1), (0, 2), (1, 2))]:
        job.join(120)
    (one, logged), (first, logged_by_first), (second, _) = (
        torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("1-0", "2-0", "2-1")
    )
    for key, value in one.items():
        torch.testing.assert_close(first[key], second[key], atol=0, rtol=0, msg=key)
        torch.testing.assert_close(first[key], value, atol=1e-5, rtol=1e-5, msg=key)
    for ours, theirs in zip(logged_by_first, logged, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-5)


def _finish_by_two(folder, *args):
    """A run by two processes that something else than Lightning has launched."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    jobs = [start(folder, args=(*TWO, *args), environment={**place, "LOCAL_RANK": str(rank)}) for rank in range(2)]
    for job in jobs:
        job.join(240)
    assert [job.exitcode for job in jobs] == [0, 0]


@pytest.fixture(scope="module")
def one_and_two(tmp_path_factory):
    """The same run by one process and by two."""
    folders = [tmp_path_factory.mktemp(name) for name in ("one", "two")]
    for folder, run in zip(folders, (finish, _finish_by_two), strict=True):
        write_run(folder)
        run(folder)
    return folders


def test_the_training_of_models_does_not_depend_on_the_number_of_ranks(one_and_two):
    one, two = (outcome(folder)["model metrics"] for folder in one_and_two)
    for model, curves in one.items():
        for tag, curve in curves.items():
            assert two[model][tag] == pytest.approx(curve, rel=1e-5), (model, tag)


def test_a_whole_run_does_not_depend_on_the_number_of_ranks(one_and_two, tmp_path):
    """The rollouts, the filter's choice, the agent and its evaluation, with the same models."""
    write_run(tmp_path)
    shutil.copytree(one_and_two[0] / "runs/pretrained", tmp_path / "runs/pretrained")
    _finish_by_two(tmp_path)
    one, two = map(outcome, (one_and_two[0], tmp_path))
    for key, value in one["state_dict"].items():
        torch.testing.assert_close(two["state_dict"][key], value, atol=1e-5, rtol=1e-4, msg=key)
    kept, kept_by_two = (each["MixedDataModule"]["synthetic"] for each in (one, two))
    for key, value in kept.items():  # the same trajectories in the same order
        torch.testing.assert_close(kept_by_two[key], value, atol=1e-4, rtol=1e-4, msg=key)
    for tag, values in one["metrics"].items():
        assert two["metrics"][tag] == pytest.approx(values, rel=1e-4, abs=1e-5), tag


@pytest.mark.parametrize("trained_meanwhile", [True, False])
def test_later_ranks_follow_the_first_into_the_training_of_a_model_or_past_it(tmp_path, monkeypatch, trained_meanwhile):
    """Another run holds the model at first. What the first rank finds when it is its turn holds for all."""
    model, entered = PretrainedModel("den", tmp_path / "models/den"), []
    monkeypatch.setenv("DYDIFF_RUN", "ours")
    (tmp_path / "models").mkdir()
    owner = tmp_path / "models/.den.owner"
    owner.write_text("theirs")
    monkeypatch.setattr(rank_zero_only, "rank", 1)

    def follow():
        with model.lock():
            entered.append(model.trained)

    second = threading.Thread(target=follow)
    second.start()
    second.join(0.5)
    assert second.is_alive() and not entered
    if trained_meanwhile:
        model.directory.mkdir()
        model.weights.touch()
    else:
        monkeypatch.setattr(rank_zero_only, "rank", 0)
        with model.lock():
            assert owner.read_text() == "ours"
            second.join(10)
        assert not owner.exists()
    second.join(10)
    assert entered == [trained_meanwhile]


def test_only_one_rank_writes(one_and_two):
    names = [sorted(re.sub(r"\d{6,}.*", "", str(path.relative_to(folder))) for path in folder.rglob("runs/**/*")
                    if path.suffix != ".lock") for folder in one_and_two]  # fmt: skip
    assert names[0] == names[1]


def test_a_run_of_two_ranks_resumes_from_its_checkpoint(one_and_two, tmp_path):
    write_run(tmp_path)
    _finish_by_two(tmp_path, "--trainer.max_epochs=1")
    _finish_by_two(tmp_path)
    assert list(differences(outcome(one_and_two[1]), outcome(tmp_path))) == []


def _launch(folder, *options):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "dydiff", "fit", "--config", "run.yaml", *TWO, *QUIET, *options]
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


@pytest.mark.parametrize("victim", ["first", "second"])
def test_a_rank_that_dies_ends_the_run(tmp_path, victim):
    write_run(tmp_path)
    process = _launch(tmp_path, "--trainer.max_epochs=100000", "--rollout=null")
    deadline = time.time() + 120
    while not list(tmp_path.glob("runs/run/version_0/checkpoints/last.ckpt")):
        assert time.time() < deadline and process.poll() is None, "it never began to train"
        time.sleep(0.05)
    (child,) = (int(pid) for pid in subprocess.check_output(["pgrep", "-P", str(process.pid)]).split())
    os.kill(process.pid if victim == "first" else child, signal.SIGKILL)
    printed = process.communicate(timeout=60)[0]  # only ends when both have ended: they share the pipe
    assert process.returncode != 0
    assert "error: Another process of this training has died" in printed


def test_a_batch_that_cannot_be_shared_is_refused(tmp_path):
    write_run(tmp_path)
    process = _launch(tmp_path, "--data.init_args.batch_size=21")
    printed = process.communicate(timeout=120)[0]
    assert process.returncode == 2
    assert "error: batch_size (21) is shared by 2 devices, which must divide it." in printed
    assert not (tmp_path / "runs").exists()


def test_evaluation_episodes_are_split_without_repeats(monkeypatch):
    played = []
    for rank in range(3):
        monkeypatch.setattr(distributed, "rank_and_count", lambda rank=rank: (rank, 3))
        played += distributed.share(torch.arange(10, 14)).tolist()
    assert played == [10, 11, 12, 13]
    assert np.unique(played).size == 4
