"""Reading D4RL's layout, episodes, windows, buffer."""

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dydiff.data import d4rl
from dydiff.data.buffer import TransitionBuffer
from dydiff.data.d4rl import D4RLSource, cached_file
from dydiff.data.episodes import Episodes, Trajectories, Transitions
from dydiff.data.local import LocalSource
from dydiff.data.split import SplitSource
from dydiff.data.tasks import DATASETS, HOPPER, TASKS, RemoteDataset, never
from dydiff.utils.errors import UserError
from dydiff.utils.seeding import seed_of


def load(path, **kwargs):
    return LocalSource(path=str(path), **kwargs).load()


def numbered_episodes(lengths):
    """Episodes whose states are ``[row, episode]``, so that a gather can be told from its numbers."""
    lengths = torch.tensor(lengths)
    rows = torch.arange(int(lengths.sum())).float()
    episode = torch.repeat_interleave(torch.arange(len(lengths)), lengths).float()
    obs = torch.stack([rows, episode], 1)
    transitions = Transitions(obs, rows[:, None], rows, obs + 1, torch.zeros(len(rows)).bool())
    return Episodes(transitions, torch.zeros(len(rows)).bool(), lengths)


class TestReading:
    def test_transitions_are_the_files(self, write_dataset):
        path = write_dataset()
        episodes = load(path)
        with h5py.File(path) as file:
            arrays = {key: torch.from_numpy(file[key][()]) for key in file}
        names = ("observations", "actions", "rewards", "next_observations", "terminals")
        for value, name in zip(episodes.transitions, names, strict=True):
            assert torch.equal(value, arrays[name])
        assert torch.equal(episodes.timeout, arrays["timeouts"])
        assert episodes.lengths.tolist() == [5, 40, 3]

    def test_terminal_rows_keep_their_true_next_state(self, write_dataset):
        """D4RL's own loader pairs them with the next episode's first state."""
        episodes = load(write_dataset((4, 4)))
        end = 3
        assert episodes.transitions.terminal[end]
        assert not torch.equal(episodes.transitions.next_obs[end], episodes.transitions.obs[end + 1])

    def test_rows_out_of_order_are_told(self, write_dataset, caplog):
        caplog.set_level("INFO")
        load(write_dataset((20, 20), name="orderly.hdf5"))
        assert "Are the rows in the order" not in caplog.text
        with h5py.File(write_dataset((20, 20))) as file:
            order = torch.randperm(40).numpy()
            shuffled = {key: file[key][()][order] for key in file}
        load(write_dataset((40,), name="shuffled.hdf5", **shuffled))
        assert "shuffled.hdf5: most rows do not start in the state that the row before them reached" in caplog.text

    def test_unfinished_last_episode_is_kept_without_a_flag(self, write_dataset):
        episodes = load(write_dataset((4, 4), timeouts=np.zeros(8, bool)))
        assert episodes.lengths.tolist() == [4, 4]
        assert not episodes.timeout.any() and episodes.transitions.terminal.sum() == 1

    def test_without_next_observations_the_next_row_is_the_next_state_within_an_episode(self, write_dataset):
        no_terminals, timeouts = np.zeros(9, bool), np.zeros(9, bool)
        timeouts[[3, 8]] = True
        path = write_dataset((4, 5), next_observations=None, terminals=no_terminals, timeouts=timeouts)
        episodes = load(path)
        assert episodes.lengths.tolist() == [3, 4]
        within = torch.tensor([0, 1, 3, 4, 5])
        assert torch.equal(episodes.transitions.next_obs[within], episodes.transitions.obs[within + 1])
        assert episodes.timeout.tolist() == [False, False, True, False, False, False, True]

    def test_float64_files_and_column_shaped_rewards_are_read(self, write_dataset):
        plain = load(write_dataset())
        wide = plain.transitions.obs.double().numpy()
        rewards = plain.transitions.reward[:, None].numpy()
        again = load(write_dataset(name="other.hdf5", observations=wide, rewards=rewards))
        assert again.fingerprint == plain.fingerprint

    def test_task_and_contacts_come_from_the_file_unless_said(self, write_dataset):
        stock = write_dataset(attrs={"env_id": "Hopper-v4", "mujoco2_contacts": False})
        assert LocalSource(path=str(stock)).task.mujoco2_contacts is False
        assert LocalSource(path=str(stock), mujoco2_contacts=True).task.mujoco2_contacts is True
        unnamed = write_dataset(name="unnamed.hdf5", attrs={})
        assert LocalSource(path=str(unnamed), env_id="Hopper-v4").task == HOPPER
        with pytest.raises(UserError, match="set 'env_id' to its Gymnasium id"):
            _ = LocalSource(path=str(unnamed)).task

    def test_fingerprint_follows_every_number(self, write_dataset):
        first = load(write_dataset()).fingerprint
        assert load(write_dataset(name="copy.hdf5")).fingerprint == first
        assert load(write_dataset(name="other.hdf5", seed=1)).fingerprint != first
        with h5py.File(write_dataset(name="flag.hdf5"), "a") as file:
            file["terminals"][-2] = True
            changed = file.filename
        assert load(changed, terminated=never).fingerprint != first


class TestSharedInMemory:
    """Equal sources read a dataset once; others never get its content."""

    def test_equal_sources_share_one_copy(self, write_dataset):
        path = str(write_dataset())
        first = LocalSource(path).load()
        assert LocalSource(path).load() is first
        assert LocalSource(path, score_max=9.0).load() is not first

    def test_a_changed_file_is_read_again(self, write_dataset):
        first = load(write_dataset()).fingerprint
        assert load(write_dataset(seed=1)).fingerprint != first

    def test_parts_of_one_dataset_are_apart(self, write_dataset):
        path = str(write_dataset((5, 6, 7, 8)))
        halves = [SplitSource(LocalSource(path), 0.5, split_seed=seed).load() for seed in (0, 1, 0)]
        assert halves[0].fingerprint != halves[1].fingerprint and halves[0] is halves[2]

    def test_a_subclass_has_its_own_content(self, write_dataset):
        class Doubled(LocalSource):
            def read(self):
                episodes = super().read()
                data = episodes.transitions
                return replace(episodes, transitions=data._replace(reward=2 * data.reward))

        path = str(write_dataset())
        assert torch.equal(Doubled(path).load().transitions.reward, 2 * LocalSource(path).load().transitions.reward)


def _not_finite(shape, row):
    values = np.zeros(shape, np.float32)
    values[row] = np.nan
    return values


@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        ({"rewards": None}, "has no rewards"),
        ({"observations": np.zeros((8, 10), np.float32)}, r"has shape \(8, 10\), the task needs \(8, 11\)"),
        ({"actions": np.zeros((7, 3), np.float32)}, "'actions' has shape"),
        ({"timeouts": np.zeros(7, bool)}, r"'timeouts' has shape \(7,\), the task needs \(8,\)"),
        ({"terminals": np.zeros((8, 2), bool)}, "'terminals' has shape"),
        ({"rewards": _not_finite(8, 5)}, "'reward' has a value that is not finite in row 5"),
        ({"next_observations": _not_finite((8, 11), 2)}, "'next_obs' .* row 2"),
        ({"actions": np.full((8, 3), 1.5, np.float32)}, r"actions reach 1.5, but those of Hopper-v4 .* \[-1, 1\]"),
        ({"next_observations": None}, "terminals but no 'next_observations'"),
        ({"observations": np.array([b"text"] * 8)}, r"is an array of \|S4, not of numbers"),
        ({key: np.zeros((0, *shape), np.float32) for key, shape in
          (("observations", (11,)), ("actions", (3,)), ("rewards", ()), ("next_observations", (11,)),
           ("terminals", ()), ("timeouts", ()))}, "has no transitions"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_one_clear_line(write_dataset, replaced, message):
    path = write_dataset((4, 4), **replaced)
    with pytest.raises(UserError, match=message) as caught:
        load(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_truncated_and_foreign_files(write_dataset, tmp_path):
    whole = write_dataset().read_bytes()
    for name, content in (("cut", whole[: len(whole) // 2]), ("empty", b""), ("text", b"not a dataset")):
        path = tmp_path / f"{name}.hdf5"
        path.write_bytes(content)
        with pytest.raises(UserError, match="not a readable HDF5 or NPZ file"):
            load(path)


def test_missing_file_and_unknown_names(tmp_path):
    with pytest.raises(UserError, match="No dataset at"):
        load(tmp_path / "nowhere.hdf5")
    with pytest.raises(UserError, match="Did you mean hopper-medium-replay-v2"):
        D4RLSource("hopper-medium-reply-v2")


class TestDownload:
    """Against a server of this process; the real address is never asked."""

    @pytest.fixture
    def remote(self, write_dataset, tmp_path, monkeypatch):
        import hashlib

        content = write_dataset().read_bytes()
        monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path / "cache"))
        served = tmp_path / "served.hdf5"
        served.write_bytes(content)
        remote = RemoteDataset(HOPPER, served.as_uri(), len(content), hashlib.sha256(content).hexdigest())
        monkeypatch.setitem(DATASETS, "served", remote)
        return served

    def test_download_is_checked_and_kept(self, remote, tmp_path):
        episodes = D4RLSource(dataset="served").load()
        assert len(episodes) == 48
        remote.unlink()  # the second time comes from the cache
        assert D4RLSource(dataset="served").load().fingerprint == episodes.fingerprint
        assert [file.name for file in (tmp_path / "cache").iterdir()] == ["served.hdf5"]

    @pytest.mark.parametrize("spoil", [lambda content: content[:-1], lambda content: content[:-1] + b"x"])
    def test_wrong_content_leaves_nothing(self, remote, tmp_path, spoil):
        remote.write_bytes(spoil(remote.read_bytes()))
        with pytest.raises(UserError, match="not D4RL's file"):
            D4RLSource(dataset="served").load()
        assert list((tmp_path / "cache").iterdir()) == []

    def test_no_network_says_where_to_put_the_file(self, monkeypatch, tmp_path):
        monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path))
        monkeypatch.setattr(d4rl.urllib.request, "urlopen", _refuse)
        with pytest.raises(UserError, match=r"Put the file at .*hopper_medium-v2\.hdf5 yourself"):
            cached_file(DATASETS["hopper-medium-v2"])
        assert list(tmp_path.iterdir()) == []


def _refuse(*args, **kwargs):
    raise OSError("no network")


class TestWindows:
    @settings(max_examples=60, deadline=None)
    @given(lengths=st.lists(st.integers(1, 12), min_size=1, max_size=6), horizon=st.integers(1, 9))
    def test_every_slice_of_every_episode_once_and_none_across_an_end(self, lengths, horizon):
        episodes = numbered_episodes(lengths)
        starts = episodes.window_starts(horizon)
        windows = episodes.windows(starts, horizon)
        assert len(starts) == sum(max(length - horizon + 1, 1) for length in lengths)
        assert len(starts.unique()) == len(starts)
        for window, act, valid in zip(windows.obs, windows.act, windows.valid, strict=True):
            episode = window[0, 1]
            length = int(valid.sum())
            assert length == min(horizon, lengths[int(episode)])
            assert valid[:length].all() and (window[:length, 1] == episode).all()
            assert (window[1:length, 0] - window[: length - 1, 0] == 1).all()
            assert (window[length:] == 0).all() and (act[length:] == 0).all()

    @settings(max_examples=30, deadline=None)
    @given(lengths=st.lists(st.integers(1, 12), min_size=2, max_size=8), fraction=st.floats(0.01, 0.99))
    def test_split_parts_whole_episodes(self, lengths, fraction):
        episodes = numbered_episodes(lengths)
        train, holdout = map(episodes.select, episodes.split(fraction))
        rows = torch.cat([train.transitions.reward, holdout.transitions.reward]).sort().values
        assert torch.equal(rows, episodes.transitions.reward)
        assert not set(train.transitions.obs[:, 1].tolist()) & set(holdout.transitions.obs[:, 1].tolist())
        assert len(train) and len(holdout)

    def test_returns(self):
        episodes = numbered_episodes([2, 3])
        assert episodes.returns.tolist() == [1, 9]


def test_trajectories_are_cut_after_the_first_terminal_step():
    terminal = torch.tensor([[0, 1, 0, 1], [0, 0, 0, 0], [1, 0, 0, 0]]).bool()
    obs = torch.arange(15.0).view(3, 5, 1)
    trajectories = Trajectories.cut(obs, torch.zeros(3, 4, 1), torch.ones(3, 4), terminal)
    assert trajectories.lengths.tolist() == [2, 4, 1]
    assert trajectories.returns.tolist() == [2, 4, 1]
    past_the_end = trajectories.reward.where(trajectories.valid, torch.nan)
    assert trajectories._replace(reward=past_the_end).returns.tolist() == [2, 4, 1]
    steps = trajectories.transitions()
    assert steps.obs[:, 0].tolist() == [0, 1, 5, 6, 7, 8, 10]
    assert steps.next_obs[:, 0].tolist() == [1, 2, 6, 7, 8, 9, 11]
    assert steps.terminal.tolist() == [False, True, False, False, False, False, True]


class TestBuffer:
    @staticmethod
    def numbered(first, count):
        numbers = torch.arange(first, first + count).float()
        column = numbers[:, None]
        return Transitions(column, column, numbers, column, numbers.long() % 2 == 0)

    @settings(max_examples=60, deadline=None)
    @given(capacity=st.integers(1, 10), inserts=st.lists(st.integers(0, 14), max_size=6))
    def test_holds_the_newest(self, capacity, inserts):
        buffer, total = TransitionBuffer(capacity, 1, 1), 0
        for count in inserts:
            buffer.insert(self.numbered(total, count))
            total += count
        held = sorted(buffer.at(torch.arange(len(buffer))).reward.tolist())
        assert held == list(range(max(0, total - capacity), total))

    @settings(max_examples=60, deadline=None)
    @given(capacity=st.integers(1, 6), more=st.integers(1, 6), before=st.integers(0, 9), after=st.integers(0, 9))
    def test_a_larger_buffer_takes_over_and_holds_the_newest(self, capacity, more, before, after):
        first, larger = TransitionBuffer(capacity, 1, 1), TransitionBuffer(capacity + more, 1, 1)
        first.insert(self.numbered(0, before))
        larger.load_state_dict(first.state_dict())
        larger.insert(self.numbered(before, after))
        held = sorted(larger.at(torch.arange(len(larger))).reward.tolist())
        known = range(max(0, before - capacity), before + after)
        assert held == list(known)[-(capacity + more) :]

    @settings(max_examples=30, deadline=None)
    @given(capacity=st.integers(1, 6), before=st.integers(0, 9), after=st.integers(0, 9))
    def test_state_dict_restores_row_by_row(self, capacity, before, after):
        first, second = TransitionBuffer(capacity, 1, 1), TransitionBuffer(capacity, 1, 1)
        first.insert(self.numbered(0, before))
        second.load_state_dict(first.state_dict())
        for buffer in (first, second):
            buffer.insert(self.numbered(100, after))
        assert len(first) == len(second)
        rows = torch.arange(len(first))
        assert torch.equal(first.at(rows).reward, second.at(rows).reward)


def test_task_table_agrees_with_itself():
    assert len(DATASETS) == 9 + 6
    for name, remote in DATASETS.items():
        assert name.startswith(remote.task.name) and remote.task in TASKS.values()
        file = Path(remote.url).stem.replace("-sparse", "").replace("_", "-")
        assert remote.url.endswith(".hdf5") and file == name
        assert remote.sha256 is None or len(remote.sha256) == 64
        assert (remote.sha256 is None) == name.startswith("maze2d")


def test_seeds_of_different_keys_differ():
    """Also of keys that differ by a zero at the end, or by what a wider number spells in two words."""
    keys = [(5,), (5, 0), (5, 0, 0), (5, 1), (5 + 2**32,), (5, 2**33), (5, 0, 2)]
    assert len({seed_of(*key) for key in keys}) == len(keys) and seed_of(5, 1) == seed_of(5, 1)
    assert all(0 <= seed_of(*key) < 2**63 for key in keys)
