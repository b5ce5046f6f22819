"""Small datasets that hold every peculiarity of D4RL's files, and what d4rl's own functions make of them.

``python tests/support/d4rl_cases.py`` writes the expectations anew.
It needs the d4rl package, which ``make test-d4rl`` installs.
"""

import os
import sys
import warnings
from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).parents[1] / "golden" / "d4rl_loaders.npz"
QLEARNING = ("observations", "actions", "rewards", "next_observations", "terminals")


def locomotion(seed=0):
    """Hopper-shaped: falls, time limits, an episode of one step, and an unfinished last one."""
    random = np.random.default_rng(seed)
    lengths, ends = (4, 7, 1, 5, 6), ("terminals", "timeouts", "terminals", "timeouts", None)
    states = [random.normal(size=(length + 1, 11)).astype(np.float32) for length in lengths]
    count = sum(lengths)
    flags = {"terminals": np.zeros(count, bool), "timeouts": np.zeros(count, bool)}
    for last, end in zip(np.cumsum(lengths) - 1, ends, strict=True):
        if end:
            flags[end][last] = True
    return {
        "observations": np.concatenate([episode[:-1] for episode in states]),
        "actions": random.uniform(-1, 1, (count, 3)).astype(np.float32),
        "rewards": random.normal(size=count).astype(np.float32),
        "next_observations": np.concatenate([episode[1:] for episode in states]),
        **flags,
    }


def maze(seed=1):
    """Maze2d-shaped: one walk without a reset, no terminals, no next observations."""
    random = np.random.default_rng(seed)
    timeouts = np.zeros(30, bool)
    timeouts[[3, 4, 16, 25]] = True
    return {
        "observations": random.normal(size=(30, 4)).astype(np.float32),
        "actions": random.uniform(-1, 1, (30, 2)).astype(np.float32),
        "rewards": random.normal(size=30).astype(np.float32),
        "terminals": np.zeros(30, bool),
        "timeouts": timeouts,
    }


CASES = {"locomotion": locomotion, "maze": maze}


def import_d4rl():
    """The d4rl package without its environments and their complaints."""
    os.environ["D4RL_SUPPRESS_IMPORT_ERROR"] = "1"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import d4rl
    return d4rl


def d4rls_view():
    """``{case/qlearning/key, case/sequence_lengths}`` by d4rl's own functions."""
    d4rl = import_d4rl()
    view = {}
    for case, make in CASES.items():
        data = make()
        qlearning = d4rl.qlearning_dataset(None, dataset=dict(data))
        view |= {f"{case}/{key}": qlearning[key] for key in QLEARNING}
        environment = type("Environment", (), {"_max_episode_steps": 1000, "get_dataset": lambda self, data=data: data})
        sequences = list(d4rl.sequence_dataset(environment(), dataset=dict(data)))
        view[f"{case}/sequence_lengths"] = np.array([len(sequence["rewards"]) for sequence in sequences])
        view[f"{case}/sequence_actions"] = np.concatenate([sequence["actions"] for sequence in sequences])
    return view


if __name__ == "__main__":
    np.savez_compressed(GOLDEN, **d4rls_view())
    print(f"written to {GOLDEN}", file=sys.stderr)
