"""The task table: environments, their termination rules and score ranges, and D4RL's files.

Score ranges, file sizes and checksums are D4RL's own (``d4rl/infos.py``) and TensorFlow Datasets' checksums of the same
files. An environment is a :class:`Task`; a D4RL dataset is a row of :data:`DATASETS` that names one.
"""

from dataclasses import dataclass, field
from typing import Any

from dydiff.data.termination import HOPPER_RULE, WALKER2D_RULE, TerminationRule, never
from dydiff.utils.errors import UserError, did_you_mean


@dataclass(frozen=True)
class Task:
    """What is known about an environment without creating it.

    Attributes:
        name: Short name, as in D4RL's dataset names.
        env_id: Gymnasium id.
        obs_dim: Size of a state.
        act_dim: Size of an action; every action is in [-1, 1], for agents and models.
        episode_limit: Steps after which an episode times out.
        terminated: Termination rule on raw states, to be called with :func:`~dydiff.data.termination.ended`.
        score_min: Return of D4RL's random policy, normalised score 0.
        score_max: Return of D4RL's expert, normalised score 100.
        mujoco2_contacts: Whether the environment restores the contacts of MuJoCo 2, with which D4RL's data were made.
            Only Hopper's and Maze2d's differ.
        act_bounds: The environment's own lowest and highest actions, to which [-1, 1] is stretched; ``None`` where
            they are -1 and 1.
        env_options: Arguments of the environment that differ from its defaults.
        env_spec: Gymnasium's specification of the environment as JSON, with its arguments and its wrappers; ``None``
            where ``env_id`` and ``env_options`` are all.
        ignore_terminals: Whether recorded terminals may contradict ``terminated``, as the user requested.
    """

    name: str
    env_id: str
    obs_dim: int
    act_dim: int
    episode_limit: int
    terminated: TerminationRule
    score_min: float
    score_max: float
    mujoco2_contacts: bool = True
    act_bounds: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    env_options: dict[str, Any] = field(default_factory=dict, hash=False)
    env_spec: str | None = None
    ignore_terminals: bool = False

    @property
    def has_score_range(self) -> bool:
        """Whether a score is normalised; from 0 to 100 it is the return itself."""
        return (self.score_min, self.score_max) != (0.0, 100.0)


HOPPER = Task("hopper", "Hopper-v4", 11, 3, 1000, HOPPER_RULE, -20.272305, 3234.3)
HALFCHEETAH = Task("halfcheetah", "HalfCheetah-v4", 17, 6, 1000, never, -280.178953, 12135.0)
WALKER2D = Task("walker2d", "Walker2d-v4", 17, 6, 1000, WALKER2D_RULE, 1.629008, 4592.3)
_MAZES = {  # steps of an episode, and the score ranges of the sparse and the dense reward
    "maze2d-umaze": (300, (23.85, 161.86), (68.537689, 193.66285642381482)),
    "maze2d-medium": (600, (13.13, 277.39), (44.264742, 297.4552547777125)),
    "maze2d-large": (800, (6.7, 273.99), (30.569041, 303.4857382709002)),
}
MAZE2D = tuple(
    Task(name, f"{name}-v1", 4, 2, limit, never, *score_range)
    for maze, (limit, sparse, dense) in _MAZES.items()
    for name, score_range in ((maze, sparse), (f"{maze}-dense", dense))
)
TASKS = {task.name: task for task in (HOPPER, HALFCHEETAH, WALKER2D, *MAZE2D)}


@dataclass(frozen=True)
class RemoteDataset:
    """A D4RL file: its task, address, size in bytes and SHA-256; ``None`` if they are not published."""

    task: Task
    url: str
    num_bytes: int | None = None
    sha256: str | None = None


_URL = "http://rail.eecs.berkeley.edu/datasets/offline_rl/"
_FILES = {
    "hopper-medium": (152756557, "5bdf1bc4a713c82941de44633df669b36c89850b652a25985166796d25cf71a0"),
    "hopper-medium-replay": (75854457, "e121c5f7c9857a307baa9edc6a2c3b48e85fedb9ac316ecddd0f48ca7ef4e39b"),
    "hopper-medium-expert": (304537315, "9d51ad87f8c905be3880d84c6140bcdb7fbf39a19e046a237f238ba34fec9e26"),
    "halfcheetah-medium": (237727262, "41324e8487a9556d8cfa4538827f8937f4d63dae3030825ebc9f3a726ed08ca0"),
    "halfcheetah-medium-replay": (59448533, "48d494a4770c11f48260736dec090b78bdca8375647ed4d24bfa5b6610c7f683"),
    "halfcheetah-medium-expert": (474567252, "015db75dae5bbe8e94029b71fa0bafc2073365df0c94744e71031189f3f79c06"),
    "walker2d-medium": (232254996, "cf00f43add04c17fdfc2958dd581dea0851b2e5bedbe6fda073758a8f841aeda"),
    "walker2d-medium-replay": (86323963, "e75de96a4f77acf7d4e0d6fdf0d7ccb177c26c44bb4388e4fd99f543ccfa18db"),
    "walker2d-medium-expert": (462197079, "6b8d7f868c45bbaedf460be797fb7271b46dee6ebe45fe7a64319f2005b59a04"),
}
DATASETS = {
    f"{name}-v2": RemoteDataset(
        TASKS[name.split("-")[0]], f"{_URL}gym_mujoco_v2/{name.replace('-', '_')}-v2.hdf5", num_bytes, sha256
    )
    for name, (num_bytes, sha256) in _FILES.items()
}
for _task in MAZE2D:
    _kind = _task.name if _task.name.endswith("dense") else f"{_task.name}-sparse"
    DATASETS[_task.env_id] = RemoteDataset(_task, f"{_URL}maze2d/{_kind}-v1.hdf5")


def find_dataset(name: str) -> RemoteDataset:
    """The D4RL dataset of that name.

    Raises:
        UserError: No such dataset; near names are suggested.
    """
    if name not in DATASETS:
        raise UserError(f"Unknown dataset '{name}'.{did_you_mean(name, DATASETS)}")
    return DATASETS[name]
