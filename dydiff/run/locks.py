"""A lock that all ranks of a run share: one run trains a model, other runs wait for it."""

import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only

from dydiff.utils.errors import UserError
from dydiff.utils.files import replacing


@contextmanager
def exclusive_lock(path: Path, is_done: Callable[[], bool]) -> Iterator[None]:
    """Hold a lock for this run; wait while another run holds it. The lock of a process that dies is released.

    Rank 0 holds ``.<name>.lock`` for all ranks of its run and writes the run's id to ``.<name>.owner``, next to
    ``path``. The other ranks wait until they read their own run's id there, or until another run has done the work.

    Args:
        path: The folder that the lock is for. It need not exist.
        is_done: Whether the work for which the lock is taken is done.

    Raises:
        UserError: The process that launched this rank has died.
    """
    owner = path.with_name(f".{path.name}.owner")
    if getattr(rank_zero_only, "rank", 0):  # known from the environment, before the ranks are connected
        _wait_for_rank_zero(owner, is_done)
        yield
        return
    owner.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(owner.with_suffix(".lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        rank_zero_info(f"Waiting for another run that trains {path.name} ...")
        lock.acquire()
    try:
        with replacing(owner) as partial:
            partial.write_text(_run_id())
        yield
    finally:
        owner.unlink(missing_ok=True)
        lock.release()


def _wait_for_rank_zero(owner: Path, is_done: Callable[[], bool]) -> None:
    parent, holder = os.getppid(), None
    while holder != _run_id() and not is_done():
        time.sleep(0.1)
        with suppress(FileNotFoundError):
            holder = owner.read_text()
        if os.getppid() != parent:
            raise UserError("The process that launched this rank has died.")


def _run_id() -> str:
    """An id shared by all ranks of this run and by no other run, whichever launcher is used."""
    names = ("SLURM_JOB_ID", "SLURM_STEP_ID", "TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT")
    launched = "-".join(os.environ[name] for name in names if name in os.environ)
    return os.environ.setdefault(
        "DYDIFF_RUN", launched or uuid.uuid4().hex
    )  # processes that Lightning starts inherit it
