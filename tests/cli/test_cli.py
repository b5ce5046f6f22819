"""Whole runs through the command line, on tiny models."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import imageio
import numpy as np
import pytest
import torch
import yaml
from conftest import ROOT
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny import QUIET, part_config, write_yaml

from dydiff.cli import main
from dydiff.cli.lightning_cli import parse
from dydiff.data.local import LocalSource
from dydiff.data.split import SplitSource
from dydiff.data.tasks import TASKS
from dydiff.envs.play import collect_episodes
from dydiff.run.folders import claim_version

CONFIGS = ROOT / "configs"


def fit(*options):
    return main(["fit", "--config", "run.yaml", *QUIET, *options])


def weights(version):
    return dict(torch.load(f"runs/run/version_{version}/checkpoints/last.ckpt", weights_only=True)["state_dict"])


def scalars(version, name="run"):
    events = EventAccumulator(f"runs/{name}/version_{version}")
    events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def parts():
    return {path.name.split("-")[0]: path for path in Path("runs/pretrained").glob("[!.]*")}


def test_one_fit_trains_parts_and_agent_and_the_next_reuses_them(place, capsys):
    assert fit() == 0
    told = capsys.readouterr().out
    for part in ("den", "dyn", "rew"):
        assert (parts()[part] / "weights.pt").is_file()
    assert told.count("train") >= 4 and "normalised score" in told and "last.ckpt" in told
    assert "MuJoCo 2 contacts restored" in told
    logged = scalars(0)
    assert [step for step, _ in logged["train/critic_loss"]] == [3, 6, 9, 12, 15, 18]  # x-axis: gradient updates
    assert [step for step, _ in logged["rollout/return"]] == [0, 6, 12]
    for tag in ("return_kept", "length", "kept_share", "buffer_size", "state_change_2", "action_change_1"):
        assert len(logged[f"rollout/{tag}"]) == 3
    assert {"train/q_mean", "eval/score", "seconds/rollout", "seconds/evaluation"} <= set(logged)
    facts = yaml.safe_load(Path("runs/run/version_0/hparams.yaml").read_text())
    assert facts["mujoco2_contacts"] is True and facts["dataset"] == "hopper"
    assert [value for _, value in logged["rollout/synthetic_share"]] == pytest.approx([0.4] * 3)
    sizes = [value for _, value in logged["rollout/buffer_size"]]
    assert sizes == sorted(sizes) and sizes[0] >= 15
    first, *later = (value for _, value in logged["rollout/policy_distance"])
    assert first < 1e-5 < min(later)  # at first all data are of the policy that is learning; then it moves on

    stamps = {name: (path / "weights.pt").stat().st_mtime_ns for name, path in parts().items()}
    assert fit() == 0
    assert "reuse" in capsys.readouterr().out
    assert {name: (path / "weights.pt").stat().st_mtime_ns for name, path in parts().items()} == stamps
    # trained or found, the parts make the same agent, to the bit
    first, second = weights(0), weights(1)
    assert all(torch.equal(first[key], second[key]) for key in first)
    # the config that a run leaves in its folder is the run again, from anywhere
    assert main(["fit", "--config", "runs/run/version_0/config.yaml"]) == 0
    assert all(torch.equal(first[key], value) for key, value in weights(2).items())
    assert fit("--seed_everything=1") == 0
    assert any(not torch.equal(first[key], value) for key, value in weights(3).items())


def test_parts_are_keyed_by_dataset_and_settings(place, write_dataset, capsys):
    pretrain = ["fit", "--config", "pretrain/rew.yaml", *QUIET]
    source = "--data.init_args.source={class_path: dydiff.data.LocalSource, init_args: {path: %s}}"
    assert main([*pretrain, source % "hopper.hdf5"]) == 0
    assert main([*pretrain, source % "hopper.hdf5"]) == 0
    assert "Already trained" in capsys.readouterr().out
    assert main([*pretrain, source % "hopper.hdf5", "--model.init_args.lr=0.01"]) == 0
    write_dataset((30, 40, 20, 35), name="other.hdf5", seed=5)
    shutil.move("other.hdf5", "hopper.hdf5")  # the same name, other numbers
    assert main([*pretrain, source % "hopper.hdf5"]) == 0
    trained = [path for path in Path("runs/pretrained").iterdir() if (path / "weights.pt").is_file()]
    assert len(trained) == 3


def test_of_two_runs_that_need_a_part_one_trains_it(place):
    """Both start at once; the second waits, and finds it trained."""
    command = [
        sys.executable,
        "-m",
        "dydiff",
        "fit",
        "--config",
        "pretrain/rew.yaml",
        *QUIET,
        "--data.init_args.source",
    ]
    command.append("{class_path: dydiff.data.LocalSource, init_args: {path: hopper.hdf5}}")
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    both = [subprocess.Popen(command, **pipes) for _ in range(2)]
    told = sorted(run.communicate()[0] for run in both)
    assert [run.returncode for run in both] == [0, 0]
    assert (
        sum("best holdout loss" in text for text in told) == 1 and sum("Already trained" in text for text in told) == 1
    )
    (part,) = parts().values()
    assert len(list(part.glob("events*"))) == 1


def test_an_interrupted_part_is_not_taken_for_a_trained_one(place):
    assert fit() == 0
    directory = parts()["den"]
    (directory / "weights.pt").unlink()
    assert fit() == 0
    assert (directory / "weights.pt").is_file()


def test_rollout_switch_replaces_the_kind_of_data_whole(place):
    assert fit("--rollout", "null") == 0
    assert not Path("runs/pretrained").exists()
    assert not any(tag.startswith("rollout/") for tag in scalars(0))
    args = ["fit", "--config", str(CONFIGS / "demo.yaml")]
    config = parse([*args, "--rollout=null", "--rollout", str(CONFIGS / "rollout/autoregressive.yaml")])
    assert config.rollout.init_args.synthesizer.init_args.rollout_length == 100
    synther = ["--rollout", str(CONFIGS / "rollout/synther.yaml"), "--rollout.real_ratio", "0.3"]
    config = parse([*args, "--rollout.filter.keep_ratio", "0.2", *synther])
    assert config.rollout.init_args.filter is None and config.rollout.init_args.real_ratio == 0.3
    assert parse([*args, "--rollout", "null"]).rollout is None


def test_a_run_saved_with_the_callback_that_does_nothing_is_one_without_rollout(place, capsys):
    """Earlier versions wrote Lightning's empty callback where now there is null."""
    assert fit("--rollout=null", "--trainer.max_epochs=1") == 0
    saved = Path("runs/run/version_0/config.yaml")
    config = yaml.safe_load(saved.read_text())
    assert config["rollout"] is None
    write_yaml(saved, config | {"rollout": {"class_path": "lightning.pytorch.callbacks.Callback"}})
    assert fit("--ckpt_path=last") == 2
    assert "rollout.class_path None, this command says callbacks.SyntheticRollout" in capsys.readouterr().err
    assert main(["fit", "--config", str(saved), "--trainer.max_epochs=2", "--ckpt_path=last"]) == 0
    assert fit("--rollout=null", "--ckpt_path=last") == 0
    assert len(list(Path("runs/run").iterdir())) == 1 and weights(0)["num_updates"] == 18
    write_yaml(saved, config | {"rollout": {"class_path": "lightning.pytorch.callbacks.Callback"}})
    assert main(["report", "runs/run", "--out", "out"]) == 0
    assert "| Base |" in Path("out/report.md").read_text()


@pytest.mark.parametrize("by", ["file", "option"])
def test_a_later_list_of_callbacks_replaces_the_earlier_one(place, capsys, by):
    """It takes no arguments of the callbacks that stood at the same places."""
    callbacks = [
        {"class_path": "callbacks.LastCheckpoint"},
        {"class_path": "EarlyStopping", "init_args": {"monitor": "eval/score"}},
        {"class_path": "ModelCheckpoint", "init_args": {"monitor": "eval/score", "mode": "max"}},
    ]
    write_yaml(Path("mine.yaml"), {"trainer": {"callbacks": callbacks}})
    mine = ["--config", "mine.yaml"] if by == "file" else ["--trainer.callbacks", json.dumps(callbacks)]
    demo = ["fit", "--config", str(CONFIGS / "demo.yaml")]

    def printed(*options):
        with pytest.raises(SystemExit):
            main([*demo, *options, "--print_config"])
        return yaml.safe_load(capsys.readouterr().out)["trainer"]["callbacks"]

    shipped, found = printed(), printed(*mine)
    assert shipped[2]["init_args"]["every_n_epochs"] == 5
    assert [each["class_path"].split(".")[-1] for each in found] == [
        "LastCheckpoint", "EarlyStopping", "ModelCheckpoint"]  # fmt: skip
    assert found[0]["init_args"]["every_n_epochs"] == 1 and found[2]["init_args"]["every_n_epochs"] is None
    assert printed("--trainer.callbacks+=callbacks.LastCheckpoint")[:3] == shipped  # one more
    write_yaml(Path("other.yaml"), {"trainer": {"max_epochs": 2}})
    assert printed("--config", "other.yaml") == shipped


SINGLE_STEP = {"dynamics": "pretrain/dyn.yaml", "reward": "pretrain/rew.yaml", "rollout_length": 4}
TRAJECTORIES = {"diffusion": "pretrain/trajectories.yaml", "sampler": {"num_steps": 2}}
TRANSITIONS = {"diffusion": "pretrain/transitions.yaml", "sampler": {"num_steps": 2}}
SIZES = {name: {"hidden_sizes": [16, 16]} for name in ("TD3BC", "CQL")}
SIZES["DiffQL"] = {"policy_hidden_sizes": [16, 16], "critic_hidden_sizes": [16, 16]}
KINDS = [  # an agent, a synthesizer, the callback's own settings, the expected share of synthetic transitions
    (
        "cql.CQL",
        "autoregressive.Autoregressive",
        {**SINGLE_STEP, "reward_penalty": 0.5},
        {"filter": "dydiff.rollout.Hardmax"},
        0.4,
    ),
    ("diffql.DiffQL", "pgd.PGD", TRAJECTORIES, {"real_ratio": 0.25}, 0.75),
    ("diffql.DiffQL", "synther.SynthER", TRANSITIONS, {"real_ratio": 0.0, "rollout_freq": None}, 1.0),
    ("cql.CQL", "real.RealEnvironment", {}, {"real_ratio": None, "rollout_freq": 2}, None),
    ("td3bc.TD3BC", "real.RealRollouts", {key: SINGLE_STEP[key] for key in ("reward", "rollout_length")}, {}, 0.4),
    (
        "td3bc.TD3BC",
        "real.RealTransitions",
        {"synthesizer": {"class_path": "dydiff.rollout.Autoregressive", "init_args": SINGLE_STEP}},
        {},
        0.4,
    ),
    ("td3bc.TD3BC", "real.HeldBackData", {}, {"real_ratio": None, "rollout_freq": 2}, None),
]


@pytest.mark.parametrize(("agent", "synthesizer", "arguments", "settings", "share"), KINDS, ids=[k[1] for k in KINDS])
def test_every_agent_and_kind_of_data_run(place, agent, synthesizer, arguments, settings, share):
    model, size = "trajectory_diffusion.TrajectoryDiffusion", {"horizon": 8, "width": 8, "multipliers": [1, 2]}
    write_yaml(Path("pretrain/trajectories.yaml"), part_config(model, "WindowDataModule", **size))
    model, size = "transition_diffusion.TransitionDiffusion", {"width": 16, "num_layers": 2}
    write_yaml(Path("pretrain/transitions.yaml"), part_config(model, "TransitionDataModule", **size))
    write_yaml(Path("rollout.yaml"), {"class_path": "callbacks.SyntheticRollout", "init_args": {
        "synthesizer": {"class_path": f"dydiff.rollout.{synthesizer}", "init_args": arguments},
        "rollout_batch_size": 25, "chunk_size": 10, **settings}})  # fmt: skip
    run = yaml.safe_load(Path("run.yaml").read_text())
    run["model"] = {"class_path": f"dydiff.agents.{agent}", "init_args": SIZES[agent.split(".")[-1]]}
    source = run["data"]["init_args"]["source"]
    split = {"class_path": "dydiff.data.SplitSource", "init_args": {"source": source, "fraction": 0.5}}
    run["data"]["init_args"]["source"] = split
    write_yaml(Path("run.yaml"), run)
    assert fit() == 0
    logged = scalars(0)
    shares = [value for _, value in logged["rollout/synthetic_share"]]
    real = sum(SplitSource(LocalSource(path="hopper.hdf5"), 0.5).load().lengths.tolist())
    expected = [25 / (25 + real), 50 / (50 + real)] if share is None else [share] * len(shares)
    assert shares == pytest.approx(expected)
    assert len(shares) == (1 if "rollout_freq" in settings and settings["rollout_freq"] is None else len(expected))
    assert len(logged["eval/score"]) == 3 and logged["rollout/non_finite"][0][1] == 0
    penalties = [value for _, value in logged.get("rollout/reward_penalty", [])]
    assert bool(penalties) == ("reward_penalty" in arguments) and all(value > 0 for value in penalties)


@pytest.mark.parametrize("agent", sorted(path.stem for path in CONFIGS.glob("agent/*.yaml")))
def test_every_agents_file_trains_it_with_synthetic_data_and_scores_it(place, agent, capsys):
    best = {"class_path": "dydiff.data.BestEpisodes", "init_args": {"fraction": 0.5}}
    best["init_args"]["source"] = yaml.safe_load(Path("run.yaml").read_text())["data"]["init_args"]["source"]
    write_yaml(Path("best.yaml"), best)
    options = ["--config", str(CONFIGS / f"agent/{agent}.yaml"), "--data.source=best.yaml"]
    assert fit(*options, "--model.hidden_sizes=[16,16]", "--data.batch_size=20") == 0
    logged = scalars(0)
    assert len(logged["eval/score"]) == 3 and ("rollout/return" in logged) == (agent != "bc")
    assert "hopper-best50pct" in capsys.readouterr().out
    assert main(["test", "--config", "run.yaml", *options, *QUIET, "--ckpt_path=last"]) == 0


def test_an_evaluation_leaves_the_training_as_it_was(place):
    """Even one that draws the policy's actions."""
    cql = ["--model=dydiff.agents.CQL", "--model.init_args.sample_eval_actions=true"]
    base = ["--rollout", "null"]
    for every in (1, 3):
        assert fit(*cql, *base, f"--trainer.check_val_every_n_epoch={every}") == 0
    assert all(torch.equal(value, weights(1)[key]) for key, value in weights(0).items())
    assert len(scalars(0)["eval/score"]) == 3 and len(scalars(1)["eval/score"]) == 1


def test_a_dataset_replaces_the_one_before_whole(place):
    demo = ["fit", "--config", str(CONFIGS / "demo.yaml")]
    own_range = ["--data.source.score_min", "5"]

    def source(*options):
        made = parse([*demo, *options]).data.init_args.source
        return made.class_path, {key: value for key, value in made.init_args.items() if value is not None}

    local, walker = "dydiff.data.LocalSource", ("dydiff.data.D4RLSource", {"dataset": "walker2d-medium-expert-v2"})
    assert source("--data.source.path", "my.hdf5") == (local, {"path": "my.hdf5"})
    assert source(*own_range, "--data.source", "LocalSource", "--data.source.path=my.hdf5") == (
        local,
        {"path": "my.hdf5"},
    )
    for options in (["--data.source", str(CONFIGS / "dataset/walker2d_me.yaml")],
                    [f"--data.source={CONFIGS / 'dataset/walker2d_me.yaml'}"],
                    ["--data.source", "D4RLSource", "--data.source.dataset", "walker2d-medium-expert-v2"],
                    ["--data.init_args.source", "{class_path: dydiff.data.D4RLSource, init_args: "
                     "{dataset: walker2d-medium-expert-v2}}"]):  # fmt: skip
        assert source(*own_range, *options) == walker


def test_null_is_heard_by_a_class_within_a_class():
    synthesizer = "--rollout.init_args.synthesizer.init_args"
    args = ["fit", "--config", str(CONFIGS / "td3bc_hopper_mr.yaml"), "--config", str(CONFIGS / "small.yaml")]
    sampler = parse(args).rollout.init_args.synthesizer.init_args.sampler
    assert sampler.sigma_start == 1
    start = parse([*args, f"{synthesizer}.sampler.sigma_start=null"]).rollout.init_args.synthesizer.init_args
    assert start.sampler.sigma_start is None and start.sampler.num_steps == sampler.num_steps
    whole = parse([*args, f"{synthesizer}.sampler", "null"]).rollout.init_args.synthesizer.init_args
    assert whole.sampler is None


def test_maze2d_runs(place, capsys):
    task = TASKS["maze2d-umaze"]
    made = collect_episodes(task, lambda obs: torch.tanh(obs[:, 2:] * 9), 200, seed=0).transitions
    with h5py.File("maze.hdf5", "w") as file:
        for key, value in zip(
            ("observations", "actions", "rewards", "next_observations", "terminals"), made, strict=True
        ):
            file[key] = value.numpy()
        file["timeouts"] = np.arange(200) % 50 == 49
        file.attrs["env_id"] = task.env_id
    assert fit("--data.source.path=maze.hdf5", "--trainer.max_epochs=1") == 0
    assert 0 <= scalars(0)["eval/return"][0][1] <= 300
    assert yaml.safe_load(Path("runs/run/version_0/hparams.yaml").read_text())["env_id"] == "maze2d-umaze-v1"

    capsys.readouterr()
    write_yaml(Path("analysis.yaml"), {
        "source": {"class_path": "dydiff.data.LocalSource", "init_args": {"path": "maze.hdf5"}},
        "synthesizer": yaml.safe_load(Path("rollout.yaml").read_text())["init_args"]["synthesizer"],
        "agent": {"class_path": "dydiff.agents.TD3BC", "init_args": {"hidden_sizes": [16, 16]}},
        "checkpoint": "runs/run/version_0/checkpoints/last.ckpt"})  # fmt: skip
    assert main(["analyze", "maze_trajectories", "--config=analysis.yaml", "--num_trajectories=5", "--out=drawn"]) == 0
    told = capsys.readouterr().out
    assert "5 rollouts of 6 steps: apart by" in told and "0.0% of the real states are in walls" in told
    assert Path("drawn/maze.png").read_bytes().startswith(b"\x89PNG")
    assert main(["analyze", "maze_trajectories", "--config=analysis.yaml", "--source.path=hopper.hdf5"]) == 2
    assert "The checkpoint is of the task 'maze2d-umaze', the data of 'hopper'" in capsys.readouterr().err


def test_a_termination_rule_of_ones_own_reaches_the_rollouts(place):
    """By its import path, also where parts are trained on the way."""
    assert fit("--data.source.terminated=dydiff.data.never", "--trainer.max_epochs=1") == 0
    assert scalars(0)["rollout/terminal_share"] == [(0, 0.0)]
    assert scalars(0)["rollout/length"] == [(0, 6.0)]


def test_runs_that_start_together_do_not_share_a_folder(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        versions = list(pool.map(lambda _: claim_version(tmp_path / "run"), range(40)))
    assert sorted(versions) == list(range(40))


def test_saved_agent_is_scored_again(place, capsys):
    assert fit() == 0
    logged = scalars(0)["eval/score"][-1][1]
    checkpoint = "runs/run/version_0/checkpoints/last.ckpt"
    shutil.rmtree("runs/pretrained")  # scoring needs no part
    capsys.readouterr()
    assert main(["validate", "--config", "run.yaml", *QUIET, "--ckpt_path", checkpoint]) == 0
    told = capsys.readouterr().out
    shown = float(next(line for line in told.splitlines() if "eval/score " in line).split("│")[2])
    assert shown == pytest.approx(logged, rel=1e-5)
    assert main(["test", "--config", "run.yaml", *QUIET, "--ckpt_path", checkpoint]) == 0
    assert "eval/score" in capsys.readouterr().out
    assert not Path("runs/pretrained").exists() and not Path("config.yaml").exists()


def test_the_run_that_is_scored_is_the_one_that_is_named(place, capsys, caplog):
    """Not the newest one of whatever settings."""
    base = ["--rollout", "null"]
    assert fit("--trainer.max_epochs=1") == 0 and fit(*base, "--trainer.max_epochs=2") == 0
    score = ["test", "--config", "run.yaml", *QUIET, "--ckpt_path=last", "--data.num_eval_episodes=3"]
    for version, rollout in enumerate(([], base)):
        caplog.clear()
        assert main([*score, *rollout]) == 0
        assert f"weights from the checkpoint at runs/run/version_{version}/" in caplog.text
    assert main([*score, "--seed_everything=1"]) == 2
    told = capsys.readouterr().err
    assert "version_1 was made with seed_everything 0, this command says 1: say the same, or name" in told


@pytest.mark.parametrize("end", ["--trainer.max_steps=12", "--trainer.max_time=00:00:00:03"])
def test_the_end_is_saved_whatever_ends_a_run(place, end):
    base = ["--rollout", "null", "--trainer.callbacks.init_args.every_n_epochs=100000"]
    assert fit(*base, "--trainer.max_epochs=100000", end) == 0
    saved = torch.load("runs/run/version_0/checkpoints/last.ckpt", weights_only=True)
    assert saved["state_dict"]["num_updates"] == scalars(0)["train/critic_loss"][-1][0] > 0


def test_a_part_is_found_by_what_it_is(place):
    """Not by the name that it was trained under."""
    source = ["--data.source", "LocalSource", "--data.source.path", "hopper.hdf5"]
    den = ["fit", "--config", "pretrain/den.yaml", *source, *QUIET]
    assert main([*den, "--name", "mine"]) == 0
    assert fit("--trainer.max_epochs=1") == 0
    assert sorted(parts()) == ["dyn", "mine", "rew"]


def test_a_model_of_an_earlier_version_is_found(place, capsys):
    """Its folder was runs/parts then, and the option of its seed --parts_seed."""
    assert fit("--trainer.max_epochs=1", "--pretrained_seed=1") == 0
    Path("runs/pretrained").rename("runs/parts")
    saved = Path("runs/run/version_0/config.yaml")
    saved.write_text(saved.read_text().replace("pretrained_seed: 1", "parts_seed: 1"))
    capsys.readouterr()
    assert fit("--parts_seed=1", "--trainer.max_epochs=2", "--ckpt_path=last") == 0
    assert capsys.readouterr().out.count("reuse") == 3
    assert not Path("runs/pretrained").exists() and weights(0)["num_updates"] == 12
    assert main(["fit", "--config", str(saved), "--pretrained_seed=0", "--ckpt_path=last"]) == 2
    assert "made with pretrained_seed 1, this command says 0" in capsys.readouterr().err


def test_a_film_shows_the_first_scored_episode(place):
    assert fit("--rollout", "null", "--trainer.max_epochs=1") == 0
    command = [sys.executable, "-m", "dydiff", "test", "--config", "run.yaml", *QUIET, "--ckpt_path=last"]
    command += ["--data.num_eval_episodes=1", "--rollout", "null"]
    environment = os.environ | {"MUJOCO_GL": "egl", "COLUMNS": "120"}
    for name in ("episode.gif", "episode.mp4"):
        made = subprocess.run([*command, "--video", name], env=environment, capture_output=True, text=True)
        if "cannot be drawn" in made.stderr:
            pytest.skip("this machine has no EGL")
        assert made.returncode == 0
        scored = re.search(r"eval/return\s+\W\s+([\d.]+)", made.stdout)[1]
        assert f"An episode of return {float(scored):.1f} is in {name}" in made.stdout
        assert len(imageio.mimread(name, memtest=False)) > 1
    refused = subprocess.run([*command, "--video", "episode.avi"], env=environment, capture_output=True, text=True)
    assert refused.returncode == 2 and "A video is a .gif or .mp4 file" in refused.stderr


def test_a_run_goes_on_from_its_checkpoint(place):
    assert fit("--trainer.max_epochs=2") == 0
    assert fit("--ckpt_path=runs/run/version_0/checkpoints/last.ckpt") == 0
    went_on = scalars(1)
    assert [step for step, _ in went_on["train/critic_loss"]] == [15, 18]
    first = scalars(0)["rollout/buffer_size"][-1][1]
    assert went_on["rollout/buffer_size"][0][1] > first  # the synthetic buffer came back
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
    for part in ("state_dict", "optimizer_states", "MixedDataModule"):
        torch.testing.assert_close(resumed[part], whole[part], atol=0, rtol=0, msg=part)
    for tag in ("train/critic_loss", "rollout/return", "eval/return"):
        assert scalars(2)[tag] == scalars(0)[tag][-len(scalars(2)[tag]) :]


@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler")
def test_compiled_updates_train_the_same_agent_and_go_on(place, caplog):
    caplog.set_level("INFO")
    assert fit("--compile=true", "--name=compiled") == 0
    assert "Compiled in" in caplog.text
    assert fit("--compile=true", "--name=short", "--trainer.max_epochs=1") == 0
    assert fit("--compile=true", "--name=short", "--ckpt_path=last") == 0
    assert fit("--compile=false", "--name=plain") == 0
    compiled, gone_on, plain = (
        torch.load(f"runs/{name}/version_0/checkpoints/last.ckpt", weights_only=True)
        for name in ("compiled", "short", "plain")
    )
    for part in ("state_dict", "optimizer_states", "MixedDataModule"):
        torch.testing.assert_close(gone_on[part], compiled[part], atol=0, rtol=0, msg=part)
    assert compiled["global_step"] == plain["global_step"] == 18
    torch.testing.assert_close(compiled["state_dict"], plain["state_dict"], atol=1e-5, rtol=1e-4)


def test_data_made_once_are_made_again_and_not_kept_in_checkpoints(place):
    write_yaml(Path("pretrain/transitions.yaml"), part_config(
        "transition_diffusion.TransitionDiffusion", "TransitionDataModule", width=16, num_layers=2))  # fmt: skip
    write_yaml(Path("rollout.yaml"), {"class_path": "callbacks.SyntheticRollout", "init_args": {
        "synthesizer": {"class_path": "dydiff.rollout.SynthER", "init_args": TRANSITIONS},
        "rollout_batch_size": 30, "chunk_size": 20, "real_ratio": 0.5, "rollout_freq": None}})  # fmt: skip
    assert fit() == 0
    assert fit("--trainer.max_epochs=1", "--name=short") == 0
    assert fit("--ckpt_path=last", "--name=short") == 0
    whole, gone_on = (
        torch.load(f"runs/{name}/version_0/checkpoints/last.ckpt", weights_only=True) for name in ("run", "short")
    )
    assert "MixedDataModule" not in whole
    for part in ("state_dict", "optimizer_states"):
        torch.testing.assert_close(gone_on[part], whole[part], atol=0, rtol=0, msg=part)


def test_last_goes_on_in_the_runs_own_folder(place, capsys):
    assert fit("--ckpt_path=last", "--trainer.max_epochs=2") == 0  # there is none yet: from the beginning
    assert fit("--ckpt_path=last") == 0
    assert fit("--name=whole") == 0
    assert [path.name for path in Path("runs/run").iterdir()] == ["version_0"]
    went_on, whole = (
        torch.load(f"runs/{name}/version_0/checkpoints/last.ckpt", weights_only=True)["state_dict"]
        for name in ("run", "whole")
    )
    assert all(torch.equal(went_on[key], value) for key, value in whole.items())
    steps = [step for step, _ in scalars(0)["train/critic_loss"]]
    assert steps == [3, 6, 9, 12, 15, 18]
    capsys.readouterr()
    assert main(["validate", "--config", "run.yaml", *QUIET, "--ckpt_path", "last"]) == 0
    assert "eval/score" in capsys.readouterr().out
    assert main(["validate", "--config", "run.yaml", *QUIET, "--ckpt_path", "last", "--name", "nobody"]) == 2
    assert "has no checkpoint to score" in capsys.readouterr().err


def test_going_on_with_other_settings_is_refused(place, capsys):
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


def test_of_several_runs_of_a_name_the_last_with_the_commands_settings_goes_on(place, capsys):
    for seed in (0, 1):
        assert fit(f"--seed_everything={seed}", "--trainer.max_epochs=1") == 0
    assert fit("--seed_everything=0", "--ckpt_path=last") == 0
    assert fit("--seed_everything=2", "--ckpt_path=last") == 2
    assert "version_1 was made with seed_everything 1, this command says 2: give this one" in capsys.readouterr().err
    updates = [torch.load(f"runs/run/version_{v}/checkpoints/last.ckpt", weights_only=True)["epoch"] for v in (0, 1)]
    assert updates[0] > updates[1] and len(list(Path("runs/run").iterdir())) == 2
    # The saved config is the whole run, also of one that went on.
    assert main(["fit", "--config", "runs/run/version_0/config.yaml", "--name=again"]) == 0
    both = (f"runs/{name}/version_0/checkpoints/last.ckpt" for name in ("run", "again"))
    states = [torch.load(path, weights_only=True)["state_dict"] for path in both]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_checkpoint_of_another_task_is_refused(place, capsys):
    assert fit("--rollout", "null") == 0
    checkpoint = "runs/run/version_0/checkpoints/last.ckpt"
    content = torch.load(checkpoint, weights_only=True) | {"task": "walker2d"}
    torch.save(content, "walker.ckpt")
    assert main(["test", "--config", "run.yaml", *QUIET, "--ckpt_path", "walker.ckpt"]) == 2
    assert capsys.readouterr().err.strip() == "error: The checkpoint is of the task 'walker2d', the data of 'hopper'."


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--rollout.init_args.real_ratio=-1"], "real_ratio must be in [0, 1], not -1.0."),
        (["--data.init_args.updates_per_step=4"], "updates_per_step (4) must divide updates_per_epoch (6)."),
        (["--rollout.init_args.filter.init_args.keep_ratio=2"], "keep_ratio must be in (0, 1], not 2.0."),
        (["--rollout.init_args.synthesizer.init_args.rollout_length=9"], "longer than the denoiser's horizon (8)"),
        (["--rollout.init_args.synthesizer.init_args.denoiser=nowhere.yaml"], "nowhere.yaml"),
        (["--model.init_args.gama=0.9"], "Unknown key 'gama' in model (dydiff.agents.TD3BC). Did you mean gamma"),
        (["--rollout=nowhere.yaml"], "rollout: there is no file nowhere.yaml."),
        (["--data.source=nowhere.yaml"], "data.source: there is no file nowhere.yaml."),
        (["--trainer.max_epoch=3"], "Did you mean trainer.max_epochs"),
        (["--rollout.init_args.synthesizer.init_args.num_correction=1"], "Did you mean num_corrections"),
        (["--model=dydiff.agents.td3bc.TD3BD"], "Did you mean TD3BC"),
        (["--data.init_args.batch_size=many"], "data.batch_size: Expected a <class 'int'>. Got value: many"),
        (["--data.init_args.source.init_args.path=missing.hdf5"], "No dataset at"),
        (["--trainer.devices=0"], "is not a valid input using cpu"),
        (["--trainer.callbacks=nope"], "trainer.callbacks: Expected a path but nope"),
        (["--ckpt_path=missing.ckpt"], "No checkpoint at"),
        (["--ckpt_path=run.yaml"], "run.yaml is damaged or not a checkpoint"),
    ],
)
def test_wrong_input_is_one_line_and_leaves_nothing(place, capsys, options, message):
    assert fit(*options) == 2
    error = capsys.readouterr().err
    lines = [line for line in error.splitlines() if not line.startswith(("Seed set", "GPU", "TPU", "INFO", "💡"))]
    assert len(lines) == 1 and lines[0].startswith("error: ") and message in lines[0]
    assert not Path("runs").exists()


def test_horizon_that_no_episode_has(place, capsys):
    path = Path("pretrain/den.yaml")
    write_yaml(path, part_config("denoiser.Denoiser", "WindowDataModule", horizon=64, width=8, multipliers=[1, 2]))
    assert fit() == 2
    assert "has the horizon's 64 steps, the longest has 40" in capsys.readouterr().err
    assert not list(Path(".").rglob("*.pt")) and not list(Path(".").rglob("*.ckpt"))


def test_unknown_command(capsys):
    assert main(["sweeep"]) == 2
    assert "There is no command 'sweeep'. Did you mean sweep?" in capsys.readouterr().err


def test_damaged_dataset_stops_before_anything_is_trained(place, capsys):
    whole = Path("hopper.hdf5").read_bytes()
    Path("hopper.hdf5").write_bytes(whole[:-5000])
    assert fit() == 2
    assert "Download or copy it again" in capsys.readouterr().err
    assert not Path("runs").exists()


def test_print_config_is_a_config_that_works_from_anywhere(place, capsys, monkeypatch):
    with pytest.raises(SystemExit) as ended:
        fit("--print_config", "--rollout.real_ratio=0.5")
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    elsewhere = place / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "printed.yaml").write_text(printed)
    monkeypatch.chdir(elsewhere)
    rollout = parse(["fit", "--config", "printed.yaml"]).rollout.init_args
    assert rollout.real_ratio == 0.5
    assert Path(rollout.synthesizer.init_args.denoiser.absolute).samefile(place / "pretrain/den.yaml")


@pytest.mark.parametrize(
    "args", [["--help"], ["fit", "--help"], ["analyze", "horizon_error", "--help"], ["collect", "maze2d", "--help"]]
)
def test_help(args, capsys):
    with pytest.raises(SystemExit) as ended:
        main(args)
    assert ended.value.code == 0
    assert "--config" in capsys.readouterr().out


def test_analyze_writes_the_curves_of_every_synthesizer(place, capsys):
    synthesizer = yaml.safe_load(Path("rollout.yaml").read_text())["init_args"]["synthesizer"]
    source = yaml.safe_load(Path("run.yaml").read_text())["data"]["init_args"]["source"]
    draft = {"class_path": "dydiff.rollout.Autoregressive", "init_args": {
        "dynamics": "pretrain/dyn.yaml", "reward": "pretrain/rew.yaml", "rollout_length": 6}}  # fmt: skip
    write_yaml(Path("error.yaml"), {
        "source": source, "synthesizers": {"single-step": draft, "dydiff": synthesizer},
        "num_windows": 5, "holdout_fraction": 0.5})  # fmt: skip
    assert fit("--rollout", "null") == 0
    agent = ["--agent=dydiff.agents.TD3BC", "--agent.init_args.hidden_sizes=[16, 16]"]
    checkpoint = "--checkpoint=runs/run/version_0/checkpoints/last.ckpt"
    assert main(["analyze", "horizon_error", "--config", "error.yaml", *agent, checkpoint]) == 0
    assert "below single-step" in capsys.readouterr().out
    rows = Path("runs/horizon_error/hopper.csv").read_text().splitlines()
    assert rows[0] == "actions,synthesizer,step,mean,median,windows" and len(rows) == 1 + 3 * 2 * 5
    assert Path("runs/horizon_error/hopper.png").stat().st_size > 5000


def test_analyses_over_seeds_of_the_parts_come_in_one_table(place):
    source = yaml.safe_load(Path("run.yaml").read_text())["data"]["init_args"]["source"]
    draft = {"class_path": "dydiff.rollout.Autoregressive", "init_args": {
        "dynamics": "pretrain/dyn.yaml", "reward": "pretrain/rew.yaml", "rollout_length": 6}}  # fmt: skip
    clipped = {**draft, "init_args": {**draft["init_args"], "sample_states": False, "clip_states": True}}
    write_yaml(Path("error.yaml"), {
        "source": source, "synthesizers": {"draft": draft, "clipped": clipped}, "holdout_fraction": 0.5})  # fmt: skip
    for seed in ("0", "1"):
        made = ["--pretrained_seed", seed, "--out", f"errors/{seed}"]
        assert main(["analyze", "horizon_error", "--config", "error.yaml", *made]) == 0
    assert len([path for path in Path("runs/pretrained").iterdir() if path.name.startswith("dyn-")]) == 2
    table = ["analyze", "error_table", "--folder", "errors", "--reference", "draft", "--out", "table.md"]
    assert main(table) == 0
    read = [
        list(csv.DictReader(path.read_text().splitlines()))
        for path in sorted(Path("errors").glob("*/hopper_summary.csv"))
    ]
    drafts = [float(rows[0]["mean"]) for rows in read]
    lines = Path("table.md").read_text().splitlines()
    assert lines[0] == "### hopper, recorded"
    assert lines[4].startswith(f"| draft | 2 | {np.mean(drafts):.3g} ± {np.std(drafts, ddof=1):.2g} |")
    ratios = [float(rows[1]["mean"]) / float(rows[0]["mean"]) for rows in read]
    assert f"| {np.mean(ratios):.3g} ± {np.std(ratios, ddof=1):.2g} |" in lines[5]
    assert main([*table, "--reference", "nobody"]) == 2
    # Ratios are of one seed: where the reference lacks one, the others have no ratio to it.
    summary = next(Path("errors/0").glob("*_summary.csv"))
    summary.write_text("".join(line for line in summary.read_text().splitlines(True) if ",draft," not in line))
    assert main(table) == 0
    lines = Path("table.md").read_text().splitlines()
    assert lines[5].startswith("| draft | 1 |") or lines[4].startswith("| draft | 1 |")
    assert f"| {ratios[1]:.3g} |" in Path("table.md").read_text()
    assert main([*table, "--folder", "pretrain"]) == 2


def test_analyze_holds_the_theory_against_measured_errors(place, capsys):
    assert fit("--rollout", "null") == 0
    synthesizer = yaml.safe_load(Path("rollout.yaml").read_text())["init_args"]["synthesizer"]
    source = yaml.safe_load(Path("run.yaml").read_text())["data"]["init_args"]["source"]
    agent = {"class_path": "dydiff.agents.TD3BC", "init_args": {"hidden_sizes": [16, 16]}}
    write_yaml(Path("theory.yaml"), {
        "source": source, "synthesizer": synthesizer, "agent": agent, "holdout_fraction": 0.5,
        "checkpoint": "runs/run/version_0/checkpoints/last.ckpt", "max_corrections": 2})  # fmt: skip
    assert main(["analyze", "theory", "--config", "theory.yaml"]) == 0
    told = capsys.readouterr().out
    c_d, c_pi, c = map(float, re.search(r"C_d = ([\d.]+), C_pi = ([\d.]+), so C = ([\d.]+)\.", told).groups())
    assert c == pytest.approx(c_d * c_pi, abs=0.02 * (c_d + c_pi + 1))
    assert f"C < 1: {'yes' if c < 1 else 'no'}" in told and "Measured errors within eq. 17:" in told
    table = [
        line.split("|")[1:-1] for line in Path("runs/theory/hopper.md").read_text().splitlines() if "|" in line[:1]
    ]
    assert [row[0].strip() for row in table] == ["M", "---", "0", "1", "2"] and len({len(row) for row in table}) == 1
    rows = list(csv.DictReader(Path("runs/theory/hopper.csv").read_text().splitlines()))
    errors = [float(row["error"]) for row in rows if row["corrections"] == "1"]
    assert float(table[3][1]) == pytest.approx(max(errors), abs=1e-3)


def test_analyze_draws_real_and_synthetic_rollouts(place, capsys):
    assert fit("--rollout", "null") == 0
    synthesizer = yaml.safe_load(Path("rollout.yaml").read_text())["init_args"]["synthesizer"]
    source = yaml.safe_load(Path("run.yaml").read_text())["data"]["init_args"]["source"]
    agent = {"class_path": "dydiff.agents.TD3BC", "init_args": {"hidden_sizes": [16, 16]}}
    write_yaml(Path("draw.yaml"), {
        "source": source, "synthesizers": {"dydiff": synthesizer}, "agent": agent, "holdout_fraction": 0.5,
        "checkpoint": "runs/run/version_0/checkpoints/last.ckpt", "dimensions": [0, 10]})  # fmt: skip
    assert main(["analyze", "state_trajectories", "--config", "draw.yaml"]) == 0
    assert Path("runs/state_trajectories/hopper.png").stat().st_size > 5000
    both = yaml.safe_load(Path("draw.yaml").read_text())
    del both["dimensions"]
    write_yaml(Path("outcomes.yaml"), both)
    assert main(["analyze", "rollout_outcomes", "--config", "outcomes.yaml"]) == 0
    (row,) = csv.DictReader(Path("runs/rollout_outcomes/hopper.csv").read_text().splitlines())
    without = {"class_path": "dydiff.rollout.SynthER", "init_args": TRANSITIONS}
    model = "transition_diffusion.TransitionDiffusion"
    write_yaml(Path("pretrain/transitions.yaml"), part_config(model, "TransitionDataModule", width=16, num_layers=2))
    write_yaml(Path("outcomes.yaml"), {**both, "synthesizers": {"SynthER": without}})
    assert main(["analyze", "rollout_outcomes", "--config", "outcomes.yaml"]) == 2
    assert "'SynthER' has no reward model" in capsys.readouterr().err
    assert row["synthesizer"] == "dydiff" and 0 <= float(row["really_terminal"]) <= 1
    assert main(["analyze", "state_trajectories", "--config", "draw.yaml", "--dimensions", "[11]"]) == 2
    assert "have 11 dimensions, from 0 on: there is no 11" in capsys.readouterr().err


def test_analyze_gives_the_heldout_error_in_one_number(place):
    synthesizer = yaml.safe_load(Path("rollout.yaml").read_text())["init_args"]["synthesizer"]
    source = yaml.safe_load(Path("run.yaml").read_text())["data"]["init_args"]["source"]
    write_yaml(Path("held.yaml"), {"source": source, "synthesizer": synthesizer, "holdout_fraction": 0.5})
    sampler = ["--synthesizer.init_args.sampler.sigma_start", "0.01", "--synthesizer.init_args.sampler.s_churn", "0"]
    synthesizer["init_args"]["num_corrections"] = 0
    write_yaml(Path("draft.yaml"), {"source": source, "synthesizer": synthesizer, "holdout_fraction": 0.5})
    for name, options in (("noise", []), ("draft", ["--config", "draft.yaml"]), ("near", sampler)):
        command = ["analyze", "heldout_error", "--config", "held.yaml", *options, "--out", name]
        assert main(command) == 0
    noise, draft, near = (
        yaml.safe_load(Path(f"{n}/result.yaml").read_text())["mean"] for n in ("noise", "draft", "near")
    )
    assert near == pytest.approx(draft, rel=0.2) and noise != pytest.approx(draft, rel=0.2)


def test_analyze_compares_transitions(place, capsys):
    model, size = "transition_diffusion.TransitionDiffusion", {"width": 16, "num_layers": 2}
    write_yaml(Path("pretrain/transitions.yaml"), part_config(model, "TransitionDataModule", **size))
    source = yaml.safe_load(Path("run.yaml").read_text())["data"]["init_args"]["source"]
    synther = {"class_path": "dydiff.rollout.SynthER", "init_args": TRANSITIONS}
    write_yaml(Path("quality.yaml"), {"source": source, "synthesizer": synther})
    assert main(["analyze", "transition_quality", "--config", "quality.yaml", "--out", "found"]) == 0
    assert "terminal agreement" in capsys.readouterr().out
    rows = Path("found/hopper.csv").read_text().splitlines()
    assert rows[0] == "data,dimension,kolmogorov_distance" and len(rows) == 1 + 2 * (11 + 3 + 1 + 11 + 1)
    assert Path("found/hopper.png").stat().st_size > 20_000
    needs_policy = yaml.safe_load(Path("rollout.yaml").read_text())["init_args"]["synthesizer"]
    write_yaml(Path("wrong.yaml"), {"source": source, "synthesizer": needs_policy})
    quality = ["analyze", "transition_quality", "--config", "wrong.yaml"]
    assert main(quality) == 2
    assert "name an 'agent' and its 'checkpoint'" in capsys.readouterr().err
    agent = ["--agent=dydiff.agents.TD3BC", "--agent.init_args.hidden_sizes=[16, 16]"]
    assert main([*quality, *agent]) == 2
    assert "needs its 'checkpoint'" in capsys.readouterr().err
    assert fit("--rollout", "null") == 0
    checkpoint = "--checkpoint=runs/run/version_0/checkpoints/last.ckpt"
    assert main([*quality, *agent, checkpoint, "--out", "rolled"]) == 0
    told = capsys.readouterr().out
    figures = yaml.safe_load(Path("rolled/result.yaml").read_text())
    assert f"dynamics error mean {figures['dynamics_error']:.2e} median {figures['median']:.2e}" in told
