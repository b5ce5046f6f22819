"""Peak memory of ``fit``, as a ratio to the size of the data: ``python benchmarks/memory.py``.

A dataset of Hopper's shape and a synthetic buffer of as many transitions. Each command runs in a process of its own, on
the dataset and on a tiny one; the difference of their peaks is what the data cost.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import h5py
import numpy as np
import yaml

ROOT = Path(__file__).parent.parent
HORIZON = 32
BYTES = 4 * (11 + 3 + 1 + 11) + 1  # of a transition in float32

_PEAK = "import resource, sys; from dydiff.cli import main; code = main(); \
print('peak', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss); sys.exit(code)"


def write_dataset(path: Path, count: int) -> None:
    """``count`` random transitions in D4RL's layout, episodes of 1000 steps."""
    random = np.random.default_rng(0)
    obs = random.normal(size=(count + 1, 11)).astype(np.float32)
    ends = np.arange(1, count + 1) % min(1000, count // 4) == 0
    with h5py.File(path, "w") as file:
        file["observations"], file["next_observations"] = obs[:-1], obs[1:]
        file["actions"] = random.uniform(-1, 1, (count, 3)).astype(np.float32)
        file["rewards"] = random.normal(size=count).astype(np.float32)
        file["terminals"], file["timeouts"] = np.zeros(count, bool), ends
        file.attrs["env_id"] = "Hopper-v4"


def write_model(folder: Path, name: str) -> Path:
    """The demo's config of a pretrained model, for a single short epoch."""
    config = yaml.safe_load((ROOT / f"configs/model/{name}_demo.yaml").read_text())
    config["data"]["init_args"] = config["data"].get("init_args", {}) | {"batches_per_epoch": 100}
    config["trainer"]["max_epochs"] = 1
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return path


def peak(folder: Path, *args: str) -> int:
    """Peak resident bytes of ``python -m dydiff`` with these arguments."""
    command = [sys.executable, "-c", _PEAK, *args, "--runs_dir", str(folder / "runs"),
               "--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu"]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return 1024 * int(done.stdout.rpartition("peak ")[2].split()[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num_transitions", type=int, default=2_000_000)
    count = parser.parse_args().num_transitions
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for name, size in (("tiny", 4_000), ("whole", count)):
            write_dataset(folder / f"{name}.hdf5", size)
        models = {name: write_model(folder, name) for name in ("denoiser", "dynamics", "reward")}
        agent = ["fit", "--config", "configs/td3bc_hopper_mr.yaml", "--name", "run", "--trainer.max_epochs", "1"]
        local = ["--data.source", "LocalSource"]
        agent += ["--data.updates_per_epoch", "100", *local, "--data.source.terminated", "dydiff.data.never"]
        rollouts = ["--rollout", "configs/rollout/dydiff_demo.yaml", "--rollout.filter", "null"]
        rollouts += [f"--rollout.init_args.synthesizer.init_args.{name}={path}" for name, path in models.items()]
        for case, args, buffers in (
            ("denoiser", ["fit", "--config", str(models["denoiser"]), *local], 0),
            ("dynamics", ["fit", "--config", str(models["dynamics"]), "--data.batches_per_epoch", "null", *local], 0),
            ("agent", [*agent, "--rollout", "null"], 0),
            ("agent and a full synthetic buffer", [*agent, *rollouts], 1),
        ):
            peaks = []
            for name, size in (("tiny", 4_000), ("whole", count)):
                amount = ["--rollout.init_args.rollout_batch_size", str(-(-size // HORIZON))] if buffers else []
                peaks.append(peak(folder, *args, *amount, "--data.source.path", str(folder / f"{name}.hdf5")))
            data_bytes = (1 + buffers) * BYTES * count
            ratio = (peaks[1] - peaks[0]) / data_bytes
            print(
                f"{case:35} data {data_bytes / 1e6:6.0f} MB, peak {peaks[1] / 1e6:6.0f} MB, ratio {ratio:.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
