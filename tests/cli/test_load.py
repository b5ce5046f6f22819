"""Runs and pretrained models from Python."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from whole_run import fit

import dydiff
from dydiff.agents import TD3BC
from dydiff.models import DynamicsEnsemble
from dydiff.utils.errors import UserError


@pytest.fixture
def run(place):
    assert fit("--trainer.max_epochs=2") == 0
    return dydiff.load_run("runs/run")


def test_a_run_is_its_dataset_its_agent_and_its_synthesizer(run):
    saved = torch.load("runs/run/version_0/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert isinstance(run.agent, TD3BC) and not run.agent.training
    assert all(torch.equal(value, saved[key]) for key, value in run.agent.state_dict().items())
    assert run.folder == Path("runs/run/version_0") and len(run.episodes) == 125 and run.source.task.name == "hopper"
    weights = torch.load(next(Path("runs/pretrained").glob("dyn-*/weights.pt")), weights_only=True)["state_dict"]
    dynamics = run.synthesizer.draft.dynamics
    assert all(torch.equal(value, weights[key]) for key, value in dynamics.state_dict().items())


def test_trajectories_depend_on_the_seed_alone(run):
    torch.manual_seed(5)
    first = run.rollout(num_trajectories=700, seed=3)
    torch.manual_seed(6)
    again = run.rollout(num_trajectories=700, seed=3)
    assert all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(first, again, strict=True))
    assert first.act.shape == (700, 6, 3) and not torch.equal(first.obs[:512], first.obs[188:])
    assert not torch.equal(run.rollout(num_trajectories=20, seed=4).obs, first.obs[:20])
    starts = run.episodes.transitions.obs[:5]
    assert torch.equal(run.rollout(start_obs=starts).obs[:, 0], starts)


def test_any_callable_is_a_policy(run):
    made = run.rollout(lambda obs: torch.full((len(obs), 3), 0.25), num_trajectories=4)
    assert (made.act[made.valid] == 0.25).all()
    base = dydiff.Run(run.folder, run.config, run.source, run.episodes, run.agent, None)
    with pytest.raises(UserError, match="was trained without synthetic data"):
        base.rollout()


def test_a_pretrained_models_folder_is_all_that_it_takes(run, tmp_path, monkeypatch, capsys):
    """Without its dataset or its config, in another place; and ``fit`` finds it there."""
    (folder,) = Path("runs/pretrained").glob("dyn-*")
    copied = tmp_path / "elsewhere/runs/pretrained" / folder.name
    shutil.copytree(folder, copied)
    obs, act = run.episodes.transitions.obs[:9], run.episodes.transitions.act[:9]
    expected = run.synthesizer.draft.dynamics.elite_means(obs, act)
    for path in ("hopper.hdf5", "pretrain", "run.yaml", "rollout.yaml"):
        shutil.move(path, tmp_path / "elsewhere")
    model = dydiff.load_model(copied)
    assert isinstance(model, DynamicsEnsemble) and not any(value.requires_grad for value in model.parameters())
    torch.testing.assert_close(model.elite_means(obs, act), expected, rtol=0, atol=0)
    monkeypatch.chdir(tmp_path / "elsewhere")
    capsys.readouterr()
    assert fit("--trainer.max_epochs=1") == 0
    assert capsys.readouterr().out.count("reuse") == 1


def test_what_cannot_be_loaded_is_one_line(run, tmp_path):
    for folder, message in (
        ("runs/nothing", "is not the folder of an agent's run"),
        (next(Path("runs/pretrained").glob("dyn-*")), "is not the folder of an agent's run"),
    ):
        with pytest.raises(UserError, match=message):
            dydiff.load_run(folder)
    with pytest.raises(UserError, match=r"has no weights.pt: it is not the folder of a trained model"):
        dydiff.load_model("runs/run/version_0")
    (folder,) = Path("runs/pretrained").glob("rew-*")
    (folder / "model.yaml").write_text("{class_path: torch.nn.Linear, init_args: {in_features: 1, out_features: 1}}")
    with pytest.raises(UserError, match="names Linear, which is not a pretrained model"):
        dydiff.load_model(folder)
    shutil.rmtree(folder)
    with pytest.raises(UserError, match=r"Pretrained models of runs/run/version_0 are missing: .*rew-hopper"):
        dydiff.load_run("runs/run/version_0")


def test_loading_leaves_the_random_numbers_alone(run):
    np.random.seed(1)
    torch.manual_seed(1)
    expected = np.random.rand(), torch.rand(1)
    np.random.seed(1)
    torch.manual_seed(1)
    dydiff.load_run("runs/run")
    dydiff.load_model(next(Path("runs/pretrained").glob("den-*")))
    assert (np.random.rand(), torch.rand(1)) == expected


def test_importing_the_package_imports_no_torch():
    code = "import sys, dydiff; assert 'torch' not in sys.modules; dydiff.load_run; assert 'torch' in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
