"""What can go wrong, and what then becomes of a run."""

import faults
import pytest
from tiny import write_run


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What a run leaves that nobody kills."""
    folder = tmp_path_factory.mktemp("whole")
    write_run(folder)
    faults.finish(folder)
    return faults.outcome(folder)


@pytest.mark.parametrize(
    ("moment", "count"),
    [
        ("pretraining step", 8),
        ("holdout evaluation", 3),
        ("publishing a part", 2),
        ("between two stages", 1),
        ("rollout", 4),
        ("update chunk", 4),
        ("evaluation", 2),
        ("checkpoint half written", 3),
        ("checkpoint half written", 12),
        ("checkpoint written", 9),
    ],
)
def test_a_killed_run_ends_as_one_left_alone(whole, tmp_path, moment, count):
    write_run(tmp_path)
    process = faults.start(tmp_path, moment, count)
    process.join(120)
    assert process.exitcode == -9, "it was not killed"
    faults.finish(tmp_path)
    assert list(faults.differences(whole, faults.outcome(tmp_path))) == []
