"""The help of a run: what there is to choose, before Lightning's options."""

import inspect
import pkgutil
from importlib import import_module

import pytest

import dydiff.agents
import dydiff.data
import dydiff.models
import dydiff.rollout
from dydiff.agents import Agent
from dydiff.cli import main
from dydiff.cli.help import classes_of
from dydiff.data import EpisodeSource
from dydiff.models import PretrainedModule
from dydiff.rollout import Filter, Synthesizer

KINDS = [
    (dydiff.agents, Agent), (dydiff.data, EpisodeSource), (dydiff.models, PretrainedModule),
    (dydiff.rollout, Synthesizer), (dydiff.rollout, Filter),
]  # fmt: skip


def printed(capsys, *args):
    with pytest.raises(SystemExit) as ended:
        main(args)
    assert ended.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("command", ["fit", "validate", "test"])
def test_the_help_names_every_class_and_fits_two_screens(capsys, command):
    said = printed(capsys, command, "--help")
    lines = said.splitlines()
    named = {line.split()[0] for line in lines if line.startswith("  ") and line[2] != " "}
    for room, base in KINDS:
        assert {kind.__name__ for kind in classes_of(room, base)} <= named
    assert {"--config", "--name", "--ckpt_path", "--trainer.max_epochs"} <= named
    assert len(lines) < 90 and max(map(len, lines)) <= 120


@pytest.mark.parametrize(("room", "base"), KINDS)
def test_every_class_of_a_kind_is_reexported_by_its_room(room, base):
    """What stands in a module of a room but not in its address would be missing in the help and in short configs."""
    defined = set()
    for module in pkgutil.iter_modules(room.__path__):
        found = vars(import_module(f"{room.__name__}.{module.name}")).values()
        defined |= {each for each in found if inspect.isclass(each) and issubclass(each, base)}
    assert {each for each in defined if not inspect.isabstract(each)} == set(classes_of(room, base))


def test_all_options_on_request(capsys):
    said = printed(capsys, "fit", "--help_all")
    assert "--trainer.gradient_clip_val" in said and "--model.help" in said
    assert "--model.alpha" in printed(capsys, "fit", "--model.help", "TD3BC")
