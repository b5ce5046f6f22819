"""The checkpoint that a command resumes from or scores."""

from pathlib import Path

import pytest
import torch
from jsonargparse import Namespace
from tiny import write_yaml

from dydiff.run.checkpoint import checkpoint_to_resume, checkpoint_to_score
from dydiff.utils.errors import UserError

SETTINGS = {"class_path": "dydiff.agents.TD3BC", "init_args": {"gamma": 0.9}}


@pytest.fixture
def config(tmp_path):
    """Settings of a command, and a run of the same settings with a checkpoint."""
    run = tmp_path / "name/version_0"
    write_yaml(run / "config.yaml", {"seed_everything": 0, "model": SETTINGS})
    hyper_parameters = {"_class_path": "dydiff.agents.td3bc.TD3BC", "gamma": 0.9}
    content = {"state_dict": {"weight": torch.zeros(2)}, "hyper_parameters": hyper_parameters, "global_step": 7}
    (run / "checkpoints").mkdir()
    torch.save(content, run / "checkpoints/last.ckpt")
    model = Namespace(class_path=SETTINGS["class_path"], init_args=Namespace(**SETTINGS["init_args"]))
    return Namespace(ckpt_path="last", runs_dir=str(tmp_path), name="name", seed_everything=0, model=model)


def last(config):
    return Path(config.runs_dir, "name/version_0/checkpoints/last.ckpt")


def test_the_saved_config_of_a_resumed_run_starts_a_new_one(config):
    assert checkpoint_to_resume(config, None) is None and config.ckpt_path is None
    config.ckpt_path = str(last(config))
    assert checkpoint_to_resume(config, config.ckpt_path).path == last(config) and config.ckpt_path is None


def test_a_run_is_not_resumed_with_other_settings(config):
    config.model.init_args.gamma = 0.8
    with pytest.raises(UserError, match=r"made with model\.gamma 0\.9, this command says 0\.8"):
        checkpoint_to_resume(config, last(config))


def test_logs_continue_after_the_last_update_of_the_checkpoint(config):
    """An agent counts its updates; of other models, Lightning counts the steps."""
    assert checkpoint_to_resume(config, last(config)).purge_step == 8
    content = torch.load(last(config), weights_only=True)
    content["state_dict"]["num_updates"] = torch.tensor(21)
    torch.save(content, last(config))
    assert checkpoint_to_resume(config, last(config)).purge_step == 22


def test_weights_of_another_model_are_refused(config):
    checkpoint = checkpoint_to_resume(config, last(config))
    checkpoint.check_weights(torch.nn.PReLU(2))
    with pytest.raises(UserError, match="does not hold a PReLU of this task: weight differs"):
        checkpoint.check_weights(torch.nn.PReLU(3))


def test_the_checkpoint_to_score_is_the_one_that_is_named(config, tmp_path):
    assert checkpoint_to_score(config).path == last(config)
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    config.ckpt_path = tmp_path / "other.ckpt"
    assert checkpoint_to_score(config).content == {"state_dict": {}}
    config.ckpt_path = None
    with pytest.raises(UserError, match="There is nothing to score"):
        checkpoint_to_score(config)
    config.ckpt_path, config.name = "last", "nobody"
    with pytest.raises(UserError, match="nobody has no checkpoint to score"):
        checkpoint_to_score(config)
    config.name, config.seed_everything = "name", 1
    with pytest.raises(UserError, match="made with seed_everything 0, this command says 1"):
        checkpoint_to_score(config)
