"""What people get wrong: one clear line, before anything is trained, and nothing left behind."""

import os
from pathlib import Path

import pytest
import torch
import yaml
from tiny import QUIET, write_yaml
from whole_run import fit

from dydiff.agents.cql import CQL
from dydiff.agents.diffql import DiffQL
from dydiff.agents.td3bc import TD3BC
from dydiff.cli import main
from dydiff.data.mixed import MixedDataModule
from dydiff.models.denoiser import Denoiser
from dydiff.models.edm import EDMSampler
from dydiff.rollout.filters import Filter
from dydiff.utils.errors import UserError


class Lopsided(Filter):
    """Gives a key too few."""

    def keys(self, trajectories, generator=None):
        return trajectories.returns[1:]


def left_behind():
    return sorted(str(path) for path in Path("runs").rglob("*") if not path.name.startswith("."))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--seed_everything=-3"], "seed_everything must be from 0 to 4294967295, not -3."),
        (["--seed_everything=false"], "seed_everything must be from 0 to 4294967295, not false."),
        (["--trainer.callbacks.init_args.every_n_epochs=0"], "every_n_epochs must be at least 1, not 0."),
        (["--pretrained_seed=-1"], "pretrained_seed"),
        (["--ckpt_path=best"], "No checkpoint at"),
        (["--trainer.logger=false"], "A run without a logger has no folder"),
        (["--model.lr=-1"], "lr must be above 0, not -1"),
        (["--model.gamma=1.0"], "gamma must lie in [0, 1), not 1.0."),
        (["--model.hidden_sizes=[0]"], "a layer's size must be at least 1, not 0."),
        (["--data.eval_seed=-5"], "eval_seed must not be negative, not -5."),
        (["--data.source=D4RLSource", "--data.source.dataset=hopper-medium-v3"],
         "Unknown dataset 'hopper-medium-v3'. Did you mean"),
        (["--data.source=D4RLSource", "--data.source.dataset=hopper-medium-v2", "--data.source.path=my.hdf5"],
         "Unknown key 'path' in data.source (dydiff.data.D4RLSource). It is an argument of LocalSource"),
        (["--model=dydiff.agents.IQL", "--model.alpha=5"],
         "Unknown key 'alpha' in model (dydiff.agents.IQL). It is an argument of TD3BC"),
        (["--rollout.init_args.synthesizer.init_args.dynamics=pretrain/rew.yaml"],
         "dynamics needs a DynamicsEnsemble, but"),
        (["--model.clone_synthetic=false", "--rollout.real_ratio=0"],
         "TD3BC needs real transitions with these settings (it clones their actions), and real_ratio 0 gives none"),
        (["--rollout.init_args.synthesizer.init_args.rollout_length=50"], "is longer than the denoiser's horizon"),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_reported_before_anything_is_trained(place, capsys, options, message):
    assert fit(*options) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert left_behind() in ([], ["runs/pretrained"])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TD3BC(3, 2, policy_delay=0), "policy_delay"),
        (lambda: CQL(3, 2, critic_lr=0.0), "critic_lr"),
        (lambda: DiffQL(3, 2, gamma=-0.1), "gamma"),
        (lambda: DiffQL(3, 2, max_grad_norm=0.0), "max_grad_norm"),
        (lambda: EDMSampler(rho=0.0), "rho"),
        (lambda: EDMSampler(sigma_min=2.0, sigma_max=1.0), "sigma_max"),
        (lambda: Denoiser(3, 2, width=12), "width must be a multiple of 8"),
        (lambda: Denoiser(3, 2, kernel_size=4), "kernel_size must be odd"),
        (lambda: Denoiser(3, 2, horizon=0), "horizon"),
        (lambda: MixedDataModule(None, updates_per_step=0), "updates_per_step"),
        (lambda: MixedDataModule(None, num_eval_episodes=0), "num_eval_episodes"),
    ],
)
def test_settings_out_of_their_range_are_named(make, message):
    with pytest.raises(UserError, match=message):
        make()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--rollout", "rollout.yaml"], "A model that is trained by itself takes no --rollout"),
        (
            ["--trainer.logger={class_path: CSVLogger, init_args: {save_dir: logs}}"],
            "A pretrained model logs into its own folder",
        ),
        (["--data.max_holdout_items=0"], "max_holdout_items must be at least 1, not 0."),
        (["--data.batch_size=0"], "batch_size must be at least 1, not 0."),
        (["--data.batches_per_epoch=0"], "batches_per_epoch must be at least 1, not 0."),
    ],
)
def test_a_wrong_setting_of_a_model_is_reported(place, capsys, options, message):
    source = ["--data.source", "LocalSource", "--data.source.path", "hopper.hdf5"]
    assert main(["fit", "--config", "pretrain/rew.yaml", *source, *QUIET, *options]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not [path for path in Path("runs").rglob("*") if path.is_file() and not path.name.startswith(".")]


def test_a_run_that_fails_before_its_first_update_leaves_no_folder(place, capsys, caplog):
    """What only shows once the models are trained: a filter that gives a key too few."""
    wrong = ["--rollout.init_args.filter", "test_mistakes.Lopsided"]
    assert fit(*wrong, "--trainer.max_epochs=1") == 2
    assert "Lopsided.keys must give one key for each of 25 trajectories, not (24,)." in capsys.readouterr().err
    assert not list(Path("runs").glob("run/version_*")) and len(list(Path("runs/pretrained").glob("[!.]*"))) == 3
    assert fit("--trainer.max_epochs=1", "--ckpt_path=last") == 0
    assert "runs/run has no checkpoint to resume: a new run starts." in caplog.text
    assert Path("runs/run/version_0/checkpoints/last.ckpt").is_file()

    # A saved agent is scored, and used from Python; an untrained one is not.
    for command in ("test", "validate"):
        assert main([command, "--config", "run.yaml", *QUIET]) == 2
        assert "There is nothing to score: give --ckpt_path last" in capsys.readouterr().err
    agent = TD3BC.load_from_checkpoint("runs/run/version_0/checkpoints/last.ckpt", weights_only=True).eval()
    saved = torch.load("runs/run/version_0/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(saved[key], value) for key, value in agent.state_dict().items())
    act = agent.policy(sample=False)(torch.zeros(2, agent.obs_dim))
    assert act.shape == (2, agent.act_dim) and act.abs().max() <= 1


def test_an_analysis_checks_its_agent_before_it_trains_models(place, capsys):
    run = yaml.safe_load(Path("run.yaml").read_text())
    synthesizer = yaml.safe_load(Path("rollout.yaml").read_text())["init_args"]["synthesizer"]
    write_yaml(Path("analysis.yaml"), {
        "source": run["data"]["init_args"]["source"], "synthesizers": {"made": synthesizer}})  # fmt: skip
    command = ["analyze", "horizon_error", "--config=analysis.yaml", "--checkpoint=nothing.ckpt"]
    assert main([*command, "--agent=dydiff.agents.TD3BC"]) == 2
    assert "nothing.ckpt" in capsys.readouterr().err
    assert main(command) == 2
    assert "A 'checkpoint' needs its 'agent'" in capsys.readouterr().err
    assert main([*command, "--num_window=3"]) == 2
    assert "Unknown key 'num_window'. Did you mean num_windows" in capsys.readouterr().err
    assert left_behind() in ([], ["runs/pretrained"])


def test_what_cannot_be_written_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "runs/run"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text(
        "{seed_everything: 0, trainer: {max_epochs: 1}, model: {class_path: x.TD3BC, init_args: {}},"
        " data: {class_path: x, init_args: {updates_per_epoch: 1}}, rollout: {class_path: x}}"
    )
    (run / "metrics.csv").write_text("step,eval/score\n1,2.0\n")
    assert main(["report", "runs", "--out", "file/out"]) == 2
    assert "hparams.yaml" in capsys.readouterr().err
    (run / "hparams.yaml").write_text("dataset: x")
    Path("file").touch()
    assert main(["report", "runs", "--out", "file/out"]) == 2
    assert "file" in capsys.readouterr().err and os.path.isfile("file")


def test_no_command_lists_them_all(capsys):
    assert main([]) == 2
    error = capsys.readouterr().err
    assert all(command in error for command in ("fit", "validate", "test", "sweep", "report", "analyze", "collect"))
