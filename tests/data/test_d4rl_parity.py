"""Our loader against d4rl's own functions, transition for transition.

Where d4rl can be imported it runs; everywhere else its stored results stand for it. We deviate on purpose, and only,
in what the tests below name: time-limit rows are kept when the file has their next state, the next state of a terminal
row is the true one, and an unfinished last episode is kept.
"""

import h5py
import numpy as np
import pytest
from d4rl_cases import CASES, QLEARNING, d4rls_view, import_d4rl

from dydiff.data.local import LocalSource
from dydiff.data.tasks import DATASETS, TASKS

ENV_ID = {"locomotion": "Hopper-v4", "maze": "maze2d-umaze-v1"}
every_case = pytest.mark.parametrize("case", CASES)


@pytest.fixture
def ours(tmp_path):
    def load(case):
        path = tmp_path / f"{case}.hdf5"
        with h5py.File(path, "w") as file:
            for key, array in CASES[case]().items():
                file[key] = array
            file["metadata/iteration"] = 3  # D4RL's files carry such scalars
        return LocalSource(path=str(path), env_id=ENV_ID[case]).load()

    return load


@every_case
def test_transitions_are_those_of_qlearning_dataset(ours, golden, case):
    theirs = {key: golden("d4rl_loaders")[f"{case}/{key}"].numpy() for key in QLEARNING}
    data, given = ours(case).transitions, CASES[case]()
    columns = dict(zip(("observations", "actions", "rewards", "next_observations", "terminals"), data, strict=True))
    if case == "locomotion":
        # d4rl drops time-limit rows, and the file's last row; we keep them, with the next state that the file has
        kept = ~given["timeouts"]
        kept[-1] = False
    else:
        kept = np.ones(len(data.reward), bool)
    for key, column in columns.items():
        if key != "next_observations":
            np.testing.assert_array_equal(column.numpy()[kept], theirs[key])
    going_on = ~theirs["terminals"].astype(bool)
    next_obs = columns["next_observations"].numpy()[kept]
    np.testing.assert_array_equal(next_obs[going_on], theirs["next_observations"][going_on])
    if case == "locomotion":
        # of a terminal row d4rl gives the next episode's first state; we give the state that the episode ended in
        assert not np.isclose(next_obs[~going_on], theirs["next_observations"][~going_on]).all(1).any()
        np.testing.assert_array_equal(columns["next_observations"].numpy(), given["next_observations"])


def test_episodes_are_those_of_sequence_dataset(ours, golden):
    g = golden("d4rl_loaders")
    episodes = ours("locomotion")
    lengths = g["locomotion/sequence_lengths"].tolist()
    assert episodes.lengths.tolist() == [*lengths, 6]  # d4rl drops the unfinished last one
    count = sum(lengths)
    np.testing.assert_array_equal(episodes.transitions.act[:count].numpy(), g["locomotion/sequence_actions"].numpy())


def test_maze_episodes_lack_the_last_step_of_each_walk(ours, golden):
    """The file has no next states, so a walk of n rows is n - 1 transitions; one of a single row is none."""
    lengths = golden("d4rl_loaders")["maze/sequence_lengths"].tolist()
    assert ours("maze").lengths.tolist() == [length - 1 for length in [*lengths, 30 - sum(lengths)] if length > 1]


class TestD4RLItself:
    @pytest.fixture(autouse=True)
    def d4rl(self):
        try:
            return import_d4rl()
        except Exception as error:  # mujoco_py raises a bare Exception
            pytest.skip(f"d4rl cannot be imported here ({error}); 'make test-d4rl' installs it")

    def test_the_stored_results_are_still_d4rls(self, golden):
        stored = golden("d4rl_loaders")
        view = d4rls_view()
        assert set(view) == set(stored)
        for key, value in view.items():
            np.testing.assert_array_equal(value, stored[key].numpy())

    def test_urls_and_score_ranges_are_d4rls(self, d4rl):
        infos = d4rl.infos
        for name, remote in DATASETS.items():
            assert remote.url == infos.DATASET_URLS[name]
            assert remote.task.score_min == pytest.approx(infos.REF_MIN_SCORE[name])
            assert remote.task.score_max == pytest.approx(infos.REF_MAX_SCORE[name])
        assert len(TASKS) == 9
