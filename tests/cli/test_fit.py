"""``fit``: an agent, its rollout and its callbacks."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import yaml
from conftest import ROOT
from tiny import QUIET, model_config, write_yaml
from whole_run import TRANSITIONS, fit, pretrained, scalars, weights

from dydiff.cli import main
from dydiff.cli.lightning_cli import parse
from dydiff.data.local import LocalSource
from dydiff.data.split import SplitSource
from dydiff.data.tasks import TASKS
from dydiff.envs.play import collect_episodes

CONFIGS = ROOT / "configs"


def test_one_fit_trains_models_and_agent_and_the_next_reuses_them(place, capsys):
    assert fit() == 0
    out = capsys.readouterr().out
    for model in ("den", "dyn", "rew"):
        assert (pretrained()[model] / "weights.pt").is_file()
    assert out.count("train") >= 4 and "normalised score" in out and "last.ckpt" in out
    assert "MuJoCo 2 contacts restored" in out
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
    assert first < 1e-5 < min(later)  # at first all data are of the policy that learns; then it changes

    stamps = {name: (path / "weights.pt").stat().st_mtime_ns for name, path in pretrained().items()}
    assert fit() == 0
    assert "reuse" in capsys.readouterr().out
    assert {name: (path / "weights.pt").stat().st_mtime_ns for name, path in pretrained().items()} == stamps
    # trained or found, the models give the same agent, to the bit
    first, second = weights(0), weights(1)
    assert all(torch.equal(first[key], second[key]) for key in first)
    # the config that a run leaves in its folder is the run again, from anywhere
    assert main(["fit", "--config", "runs/run/version_0/config.yaml"]) == 0
    assert all(torch.equal(first[key], value) for key, value in weights(2).items())
    assert fit("--seed_everything=1") == 0
    assert any(not torch.equal(first[key], value) for key, value in weights(3).items())


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
SIZES = {name: {"hidden_sizes": [16, 16]} for name in ("TD3BC", "CQL")}
SIZES["DiffQL"] = {"policy_hidden_sizes": [16, 16], "critic_hidden_sizes": [16, 16]}
KINDS = [  # an agent, a synthesizer, the callback's settings, the expected share of synthetic transitions
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
    write_yaml(Path("pretrain/trajectories.yaml"), model_config(model, "WindowDataModule", **size))
    model, size = "transition_diffusion.TransitionDiffusion", {"width": 16, "num_layers": 2}
    write_yaml(Path("pretrain/transitions.yaml"), model_config(model, "TransitionDataModule", **size))
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
    out = capsys.readouterr().out
    assert "5 rollouts of 6 steps: apart by" in out and "0.0% of the real states are in walls" in out
    assert Path("drawn/maze.png").read_bytes().startswith(b"\x89PNG")
    assert main(["analyze", "maze_trajectories", "--config=analysis.yaml", "--source.path=hopper.hdf5"]) == 2
    assert "The checkpoint is of the task 'maze2d-umaze', the data of 'hopper'" in capsys.readouterr().err


def test_a_custom_termination_rule_reaches_the_rollouts(place):
    """By its import path, also where models are trained on the way."""
    assert fit("--data.source.terminated=dydiff.data.never", "--trainer.max_epochs=1") == 0
    assert scalars(0)["rollout/terminal_share"] == [(0, 0.0)]
    assert scalars(0)["rollout/length"] == [(0, 6.0)]
