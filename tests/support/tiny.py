"""A dataset and a run that take seconds: Hopper-shaped, everything small."""

import h5py
import numpy as np
import yaml

QUIET = ("--trainer.enable_progress_bar=false", "--trainer.accelerator=cpu")

AVERAGING = {"class_path": "EMAWeightAveraging", "init_args": {"decay": 0.9}}
STOPPING = {"class_path": "EarlyStopping", "init_args": {"monitor": "holdout/loss", "patience": 1}}


def write_dataset(path, lengths=(5, 40, 3), seed=0, attrs=None, **replaced):
    """Writes a file in D4RL's layout; keyword arguments replace or (as ``None``) remove a key.

    Hopper has fallen in the states that terminals lead to, and in no other.
    """
    random = np.random.default_rng(seed)
    count = sum(lengths)
    obs = random.normal(size=(count + len(lengths), 11)).astype(np.float32)
    rows, terminals, timeouts, base = [], np.zeros(count, bool), np.zeros(count, bool), 0
    for episode, length in enumerate(lengths):
        rows += range(base + episode, base + episode + length)
        base += length
        (timeouts if episode % 2 else terminals)[base - 1] = True
    rows = np.array(rows)
    obs[:, 0], obs[:, 1] = 1.2 + 0.1 * obs[:, 0].clip(-4, 4), 0.04 * obs[:, 1].clip(-4, 4)
    given = replaced.get("terminals")
    flags = given is not None and given.shape == (count,) and given.dtype.kind in "biuf"
    fallen = given.astype(bool) if flags else terminals
    obs[rows[fallen] + 1, 0] -= 0.8
    arrays = {
        "observations": obs[rows],
        "actions": random.uniform(-1, 1, (count, 3)).astype(np.float32),
        "rewards": random.normal(size=count).astype(np.float32),
        "next_observations": obs[rows + 1],
        "terminals": terminals,
        "timeouts": timeouts,
    } | replaced
    with h5py.File(path, "w") as file:
        for key, value in arrays.items():
            if value is not None:
                file[key] = value
        file.attrs.update({"env_id": "Hopper-v4"} if attrs is None else attrs)
    return path


def write_yaml(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def model_config(model, data, callbacks=(), max_epochs=2, **init_args):
    return {
        "model": {"class_path": f"dydiff.models.{model}", "init_args": init_args},
        "data": {
            "class_path": f"dydiff.data.datamodules.{data}",
            "init_args": {"batch_size": 16, "batches_per_epoch": 3},
        },
        "trainer": {
            "max_epochs": max_epochs,
            "callbacks": [
                *callbacks,
                {"class_path": "ModelCheckpoint", "init_args": {"monitor": "holdout/loss"}},
                {"class_path": "callbacks.LastCheckpoint"},
            ],
        },
    }


def write_run(folder):
    """The configs of a run in ``folder``, and its dataset; ``fit --config run.yaml`` there trains models and agent."""
    folder.mkdir(parents=True, exist_ok=True)
    write_dataset(folder / "hopper.hdf5", (30, 40, 20, 35))
    write_yaml(folder / "pretrain/den.yaml", model_config(
        "denoiser.Denoiser", "WindowDataModule", callbacks=[AVERAGING],
        horizon=8, width=8, multipliers=[1, 2]))  # fmt: skip
    write_yaml(folder / "pretrain/dyn.yaml", model_config(
        "dynamics.DynamicsEnsemble", "TransitionDataModule",
        num_members=3, num_elites=2, hidden_sizes=[16], weight_decay=[0.0, 0.0]))  # fmt: skip
    write_yaml(folder / "pretrain/rew.yaml", model_config(
        "reward.RewardModel", "TransitionDataModule", callbacks=[STOPPING], max_epochs=9,
        lr=0.1, hidden_sizes=[16]))  # fmt: skip
    models = {"denoiser": "pretrain/den.yaml", "dynamics": "pretrain/dyn.yaml", "reward": "pretrain/rew.yaml"}
    rollout = {
        "class_path": "callbacks.SyntheticRollout",
        "init_args": {
            "synthesizer": {
                "class_path": "dydiff.rollout.DyDiff",
                "init_args": {**models, "rollout_length": 6, "sampler": {"num_steps": 2}},
            },
            "filter": {"class_path": "dydiff.rollout.Softmax"},
            "rollout_batch_size": 25,
            "chunk_size": 10,
        },
    }
    write_yaml(folder / "rollout.yaml", rollout)
    run = {
        "model": {"class_path": "dydiff.agents.TD3BC", "init_args": {"hidden_sizes": [16, 16]}},
        "data": {
            "class_path": "dydiff.data.MixedDataModule",
            "init_args": {
                "source": {"class_path": "dydiff.data.LocalSource", "init_args": {"path": "hopper.hdf5"}},
                "batch_size": 20, "updates_per_epoch": 6, "updates_per_step": 3, "num_eval_episodes": 2,
            },
        },
        "rollout": "rollout.yaml",
        "trainer": {
            "max_epochs": 3,
            "callbacks": [{"class_path": "callbacks.LastCheckpoint"}],
        },
    }  # fmt: skip
    write_yaml(folder / "run.yaml", run)
