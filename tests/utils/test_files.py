"""Files that are replaced as a whole."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from dydiff.utils import files
from dydiff.utils.files import replacing


def test_threads_of_one_process_do_not_write_to_one_temporary_file(tmp_path):
    target, both_wrote = tmp_path / "target", threading.Barrier(2, timeout=10)

    def write(text):
        with replacing(target) as part:
            part.write_text(text)
            both_wrote.wait()
            return part.read_text()

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(write, ["one", "other"])) == ["one", "other"]
    assert target.read_text() in ("one", "other")
    assert list(tmp_path.iterdir()) == [target]


def test_the_target_changes_only_when_the_block_ends(tmp_path):
    target = tmp_path / "new" / "folder" / "target"
    with replacing(target) as part:
        part.write_text("first")
        assert not target.exists() and part.parent == target.parent  # a rename does not cross file systems
    with replacing(target) as part:
        part.write_text("second")
        assert target.read_text() == "first"
    assert target.read_text() == "second"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_block_that_fails_leaves_the_earlier_file_and_nothing_else(tmp_path, error):
    target = tmp_path / "target"
    target.write_text("earlier")
    with pytest.raises(error), replacing(target) as part:
        part.write_text("half")
        raise error
    assert target.read_text() == "earlier" and list(tmp_path.iterdir()) == [target]


def test_the_content_is_on_the_disk_before_the_name(tmp_path, monkeypatch):
    """Else a machine that crashes may keep the new name with an empty file."""
    target, synced = tmp_path / "target", []

    def fsync(handle):
        synced.append((os.fstat(handle).st_ino, target.exists()))

    monkeypatch.setattr(files.os, "fsync", fsync)
    with replacing(target) as part:
        part.write_text("content")
    assert synced == [(target.stat().st_ino, False), (tmp_path.stat().st_ino, True)]


def test_a_block_that_writes_nothing_leaves_the_earlier_file(tmp_path):
    target = tmp_path / "target"
    target.write_text("earlier")
    with pytest.raises(FileNotFoundError), replacing(target):
        pass
    assert target.read_text() == "earlier"


def test_a_reader_finds_a_whole_file_at_any_time(tmp_path):
    target, ended, read = tmp_path / "target", threading.Event(), set()
    target.write_text("0" * 1000)

    def reading():
        while not ended.is_set():
            read.add(target.read_text())

    with ThreadPoolExecutor(1) as pool:
        reader = pool.submit(reading)
        for number in range(200):
            with replacing(target) as part:
                part.write_text(str(number % 10) * 1000)
        ended.set()
        reader.result()
    assert read <= {str(digit) * 1000 for digit in range(10)}
