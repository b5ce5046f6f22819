"""The lock that the ranks of a run share and other runs wait for."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from lightning.pytorch.utilities import rank_zero_only

from dydiff.run import locks
from dydiff.run.locks import exclusive_lock, run_id
from dydiff.utils.errors import UserError

LAUNCHED = {
    "SLURM": {"SLURM_JOB_ID": "17", "SLURM_STEP_ID": "2"},
    "torchrun": {"TORCHELASTIC_RUN_ID": "none", "MASTER_ADDR": "node0", "MASTER_PORT": "29500"},
}


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch):
    for name in {name for launcher in LAUNCHED.values() for name in launcher}:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DYDIFF_RUN", "before")  # so that what a test sets is removed after it
    monkeypatch.delenv("DYDIFF_RUN")


@pytest.fixture
def rank_one(monkeypatch):
    monkeypatch.setattr(rank_zero_only, "rank", 1)


def never():
    return False


def left(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


def test_two_runs_do_not_hold_a_lock_together(tmp_path):
    inside, most = [], []

    def work(number):
        with exclusive_lock(tmp_path / "model", never):
            inside.append(number)
            most.append(len(inside))
            threading.Event().wait(0.02)
            inside.remove(number)

    with ThreadPoolExecutor(5) as pool:
        list(pool.map(work, range(10)))
    assert most == [1] * 10 and left(tmp_path) == []


def test_locks_of_two_models_do_not_exclude_each_other(tmp_path):
    with exclusive_lock(tmp_path / "one", never), exclusive_lock(tmp_path / "other", never):
        assert left(tmp_path) == [".one.owner", ".other.owner"]


def test_the_owner_is_named_while_it_holds_the_lock(tmp_path):
    with pytest.raises(ZeroDivisionError), exclusive_lock(tmp_path / "new" / "model", never):
        assert (tmp_path / "new/.model.owner").read_text() == run_id()
        raise ZeroDivisionError
    assert left(tmp_path / "new") == []


def test_a_rank_waits_until_its_own_run_holds_the_lock(tmp_path, rank_one):
    owner = tmp_path / ".model.owner"
    checks = []

    def another_run_then_ours():
        checks.append(owner.read_text() if owner.exists() else None)
        owner.write_text("another run" if len(checks) < 3 else run_id())
        return False

    with exclusive_lock(tmp_path / "model", another_run_then_ours):
        assert checks == [None, "another run", "another run"]
        assert owner.read_text() == run_id()
    assert owner.read_text() == run_id()  # rank 0 removes it


def test_a_rank_does_not_wait_for_work_that_is_done(tmp_path, rank_one):
    (tmp_path / ".model.owner").write_text("another run")
    checks = iter([False, True])
    with exclusive_lock(tmp_path / "model", lambda: next(checks)):
        assert next(checks, "used") == "used"


def test_a_rank_whose_launcher_dies_does_not_wait_for_ever(tmp_path, rank_one, monkeypatch):
    parents = iter([10, 10, 1])
    monkeypatch.setattr(locks.os, "getppid", lambda: next(parents))
    with pytest.raises(UserError, match="launched this rank has died"), exclusive_lock(tmp_path / "model", never):
        pass


def test_processes_that_a_run_starts_have_its_id():
    first = run_id()
    assert run_id() == first == os.environ["DYDIFF_RUN"]
    del os.environ["DYDIFF_RUN"]
    assert run_id() != first


@pytest.mark.parametrize("launcher", LAUNCHED)
def test_processes_of_one_launcher_have_one_id(monkeypatch, launcher):
    """They are not started by each other, so they inherit nothing."""
    ids = []
    for change in ({}, {}, *({name: "other"} for name in LAUNCHED[launcher])):
        os.environ.pop("DYDIFF_RUN", None)
        for name, value in (LAUNCHED[launcher] | change).items():
            monkeypatch.setenv(name, value)
        ids.append(run_id())
    assert ids[0] == ids[1] and len(set(ids)) == len(ids) - 1
