"""Runs that resume: which run, and to which end."""

import shutil
from pathlib import Path

import pytest
import torch
import yaml
from tiny import QUIET, model_config, write_yaml
from whole_run import TRANSITIONS, fit, scalars, weights

from dydiff.cli import main


@pytest.mark.parametrize("end", ["--trainer.max_steps=12", "--trainer.max_time=00:00:00:03"])
def test_the_end_is_saved_whatever_ends_a_run(place, end):
    base = ["--rollout", "null", "--trainer.callbacks.init_args.every_n_epochs=100000"]
    assert fit(*base, "--trainer.max_epochs=100000", end) == 0
    saved = torch.load("runs/run/version_0/checkpoints/last.ckpt", weights_only=True)
    assert saved["state_dict"]["num_updates"] == scalars(0)["train/critic_loss"][-1][0] > 0


def test_a_run_resumes_from_its_checkpoint(place):
    assert fit("--trainer.max_epochs=2") == 0
    assert fit("--ckpt_path=runs/run/version_0/checkpoints/last.ckpt") == 0
    resumed = scalars(1)
    assert [step for step, _ in resumed["train/critic_loss"]] == [15, 18]
    first = scalars(0)["rollout/buffer_size"][-1][1]
    assert resumed["rollout/buffer_size"][0][1] > first  # the synthetic buffer came back
    assert weights(1)["num_updates"] == 18


@pytest.mark.parametrize("agent", ["td3bc.TD3BC", "cql.CQL", "diffql.DiffQL"])
def test_an_interrupted_run_ends_as_an_uninterrupted_one(place, agent):
    """Weights, targets, optimizers, random numbers and the synthetic buffer, to the bit."""
    model = f"--model=dydiff.agents.{agent}"
    assert fit(model) == 0
    assert fit(model, "--trainer.max_epochs=1") == 0
    assert fit(model, "--ckpt_path=runs/run/version_1/checkpoints/last.ckpt") == 0
    whole, resumed = (
        torch.load(f"runs/run/version_{version}/checkpoints/last.ckpt", weights_only=True) for version in (0, 2)
    )
    for key in ("state_dict", "optimizer_states", "MixedDataModule"):
        torch.testing.assert_close(resumed[key], whole[key], atol=0, rtol=0, msg=key)
    for tag in ("train/critic_loss", "rollout/return", "eval/return"):
        assert scalars(2)[tag] == scalars(0)[tag][-len(scalars(2)[tag]) :]


@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler")
def test_compiled_updates_train_the_same_agent_and_resume(place, caplog):
    caplog.set_level("INFO")
    assert fit("--compile=true", "--name=compiled") == 0
    assert "Compiled in" in caplog.text
    assert fit("--compile=true", "--name=short", "--trainer.max_epochs=1") == 0
    assert fit("--compile=true", "--name=short", "--ckpt_path=last") == 0
    assert fit("--compile=false", "--name=plain") == 0
    compiled, resumed, plain = (
        torch.load(f"runs/{name}/version_0/checkpoints/last.ckpt", weights_only=True)
        for name in ("compiled", "short", "plain")
    )
    for key in ("state_dict", "optimizer_states", "MixedDataModule"):
        torch.testing.assert_close(resumed[key], compiled[key], atol=0, rtol=0, msg=key)
    assert compiled["global_step"] == plain["global_step"] == 18
    torch.testing.assert_close(compiled["state_dict"], plain["state_dict"], atol=1e-5, rtol=1e-4)


def test_data_made_once_are_made_again_and_not_kept_in_checkpoints(place):
    write_yaml(Path("pretrain/transitions.yaml"), model_config(
        "transition_diffusion.TransitionDiffusion", "TransitionDataModule", width=16, num_layers=2))  # fmt: skip
    write_yaml(Path("rollout.yaml"), {"class_path": "callbacks.SyntheticRollout", "init_args": {
        "synthesizer": {"class_path": "dydiff.rollout.SynthER", "init_args": TRANSITIONS},
        "rollout_batch_size": 30, "chunk_size": 20, "real_ratio": 0.5, "rollout_freq": None}})  # fmt: skip
    assert fit() == 0
    assert fit("--trainer.max_epochs=1", "--name=short") == 0
    assert fit("--ckpt_path=last", "--name=short") == 0
    whole, resumed = (
        torch.load(f"runs/{name}/version_0/checkpoints/last.ckpt", weights_only=True) for name in ("run", "short")
    )
    assert "MixedDataModule" not in whole
    for key in ("state_dict", "optimizer_states"):
        torch.testing.assert_close(resumed[key], whole[key], atol=0, rtol=0, msg=key)


def test_last_resumes_in_the_runs_folder(place, capsys):
    assert fit("--ckpt_path=last", "--trainer.max_epochs=2") == 0  # there is none yet: from the beginning
    assert fit("--ckpt_path=last") == 0
    assert fit("--name=whole") == 0
    assert [path.name for path in Path("runs/run").iterdir()] == ["version_0"]
    resumed, whole = (
        torch.load(f"runs/{name}/version_0/checkpoints/last.ckpt", weights_only=True)["state_dict"]
        for name in ("run", "whole")
    )
    assert all(torch.equal(resumed[key], value) for key, value in whole.items())
    steps = [step for step, _ in scalars(0)["train/critic_loss"]]
    assert steps == [3, 6, 9, 12, 15, 18]
    capsys.readouterr()
    assert main(["validate", "--config", "run.yaml", *QUIET, "--ckpt_path", "last"]) == 0
    assert "eval/score" in capsys.readouterr().out
    assert main(["validate", "--config", "run.yaml", *QUIET, "--ckpt_path", "last", "--name", "nobody"]) == 2
    assert "has no checkpoint to score" in capsys.readouterr().err


def test_resuming_with_other_settings_is_refused(place, capsys):
    """Neither the checkpoint's nor the command's settings win silently."""
    assert fit("--trainer.max_epochs=1") == 0
    for last in ("last", "runs/run/version_0/checkpoints/last.ckpt"):
        assert fit(f"--ckpt_path={last}", "--model.init_args.gamma=0.9") == 2
        assert "made with model.gamma 0.99, this command says 0.9" in capsys.readouterr().err
    assert fit("--ckpt_path=runs/run/version_0/checkpoints/last.ckpt", "--model=dydiff.agents.CQL") == 2
    assert "was made by" in capsys.readouterr().err
    assert fit("--ckpt_path=last", "--rollout", "null") == 2
    assert "rollout.class_path callbacks.SyntheticRollout, this command" in capsys.readouterr().err
    assert len(list(Path("runs/run").iterdir())) == 1


def test_of_several_runs_of_a_name_the_last_with_the_commands_settings_is_resumed(place, capsys):
    for seed in (0, 1):
        assert fit(f"--seed_everything={seed}", "--trainer.max_epochs=1") == 0
    assert fit("--seed_everything=0", "--ckpt_path=last") == 0
    assert fit("--seed_everything=2", "--ckpt_path=last") == 2
    assert "version_1 was made with seed_everything 1, this command says 2: give this one" in capsys.readouterr().err
    updates = [torch.load(f"runs/run/version_{v}/checkpoints/last.ckpt", weights_only=True)["epoch"] for v in (0, 1)]
    assert updates[0] > updates[1] and len(list(Path("runs/run").iterdir())) == 2
    # The saved config is the whole run, also of one that was resumed.
    assert main(["fit", "--config", "runs/run/version_0/config.yaml", "--name=again"]) == 0
    both = (f"runs/{name}/version_0/checkpoints/last.ckpt" for name in ("run", "again"))
    states = [torch.load(path, weights_only=True)["state_dict"] for path in both]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


EARLIER = {  # where classes were named before packages gave them shorter paths
    "dydiff.agents.TD3BC": "dydiff.agents.td3bc.TD3BC",
    "dydiff.data.MixedDataModule": "dydiff.data.mixed.MixedDataModule",
    "dydiff.data.LocalSource": "dydiff.data.local.LocalSource",
    "dydiff.rollout.DyDiff": "dydiff.rollout.dydiff.DyDiff",
    "dydiff.rollout.Softmax": "dydiff.rollout.filters.Softmax",
    "callbacks.SyntheticRollout": "callbacks.rollout.SyntheticRollout",
    "callbacks.LastCheckpoint": "callbacks.checkpoint.LastCheckpoint",
}


def with_earlier_paths(saved):
    """Saved settings as the version wrote them that named classes by their modules."""
    if isinstance(saved, dict):
        return {key: with_earlier_paths(value) for key, value in saved.items()}
    if isinstance(saved, list):
        return [with_earlier_paths(value) for value in saved]
    return EARLIER.get(saved, saved) if isinstance(saved, str) else saved


def test_a_run_whose_classes_had_longer_paths_is_resumed_and_scored(place, capsys):
    """By its name and by its checkpoint; its pretrained models are found, and it ends as one without a break."""
    assert fit("--trainer.max_epochs=2") == 0
    run, changed = Path("runs/run/version_0"), set()
    for name in ("config.yaml", "hparams.yaml"):
        settings = yaml.safe_load((run / name).read_text())
        write_yaml(run / name, with_earlier_paths(settings))
        changed |= {path for path in EARLIER.values() if path in (run / name).read_text()}
        assert not any(f"{path}\n" in (run / name).read_text() for path in EARLIER)
    assert changed == set(EARLIER.values())
    checkpoint = run / "checkpoints/last.ckpt"
    content = torch.load(checkpoint, weights_only=True)
    earlier = content | {"hyper_parameters": with_earlier_paths(dict(content["hyper_parameters"]))}
    assert earlier["hyper_parameters"]["_class_path"] == "dydiff.agents.td3bc.TD3BC"
    torch.save(earlier, checkpoint)
    shutil.copytree(run, "runs/by_config/version_0")

    capsys.readouterr()
    assert fit("--ckpt_path=last") == 0
    assert capsys.readouterr().out.count("reuse") == 3
    saved_config = ["fit", "--config", "runs/by_config/version_0/config.yaml", "--name=by_config", *QUIET]
    assert main([*saved_config, "--trainer.max_epochs=3", "--ckpt_path=last"]) == 0
    assert fit("--name=whole") == 0
    names = ("run", "by_config", "whole")
    assert [len(list(Path("runs", name).iterdir())) for name in names] == [1, 1, 1]
    resumed, by_config, whole = (
        torch.load(f"runs/{name}/version_0/checkpoints/last.ckpt", weights_only=True) for name in names
    )
    for key in ("state_dict", "optimizer_states", "MixedDataModule"):
        torch.testing.assert_close(resumed[key], whole[key], atol=0, rtol=0, msg=key)
        torch.testing.assert_close(by_config[key], whole[key], atol=0, rtol=0, msg=key)
    write_yaml(run / "config.yaml", with_earlier_paths(yaml.safe_load((run / "config.yaml").read_text())))
    assert main(["validate", "--config", "run.yaml", *QUIET, "--ckpt_path=last"]) == 0
