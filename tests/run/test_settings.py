"""Settings as plain values: which of them must be equal for a run to be resumed."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from jsonargparse import Namespace
from jsonargparse.typing import Path_fr

from dydiff.run.settings import (
    address,
    addressed,
    arguments_of,
    check_settings,
    comparable,
    config_paths,
    difference,
    make_absolute,
    plain,
    shaping,
)
from dydiff.utils.errors import UserError

NAMES = st.text("abcxyz_", min_size=1, max_size=5).filter(lambda name: not name.startswith("__"))
VALUES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text("abc/.", max_size=5)
NESTED = st.recursive(VALUES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3))
SETTINGS = st.dictionaries(NAMES, NESTED, max_size=4)

RUN = {
    "seed_everything": 0,
    "model": {"class_path": "dydiff.agents.TD3BC", "init_args": {"hidden_sizes": [16, 16]}},
    "data": {
        "class_path": "dydiff.data.MixedDataModule",
        "init_args": {"source": {"class_path": "dydiff.data.LocalSource", "init_args": {"path": "/here/a.hdf5"}}},
    },
    "rollout": {"class_path": "callbacks.SyntheticRollout", "init_args": {"real_ratio": 0.5}},
    "trainer": {
        "max_epochs": 3,
        "accelerator": "cpu",
        "devices": 1,
        "logger": None,
        "callbacks": [{"class_path": "callbacks.LastCheckpoint"}],
    },
    "ckpt_path": None,
    "threads": "auto",
    "compile": "auto",
    "name": "run",
    "runs_dir": "runs",
    "pretrained_seed": None,
}


def changed(key, value):
    """``RUN`` with another value at a dotted key."""
    settings = json.loads(json.dumps(RUN))
    *path, last = key.split(".")
    at = settings
    for name in path:
        at = at[name]
    at[last] = value
    return settings


def differ(one, other):
    return difference(comparable(one), comparable(other))


def namespaces(value):
    """The same settings as jsonargparse holds them."""
    if isinstance(value, dict):
        return Namespace(**{key: namespaces(item) for key, item in value.items()})
    return [namespaces(item) for item in value] if isinstance(value, list) else value


@given(SETTINGS)
def test_plain_settings_are_what_was_written(settings):
    assert plain(namespaces(settings)) == settings == plain(settings)


def test_plain_settings_have_no_bookkeeping_and_name_functions():
    config = Namespace(a=(1, (2, 3)), rule=address, b=Namespace(c=[Namespace(d=1)]))
    config["__path__"] = "somewhere.yaml"
    found = plain(config)
    assert found == {"a": [1, [2, 3]], "rule": "dydiff.run.settings.address", "b": {"c": [{"d": 1}]}}
    assert type(found["b"]) is dict and type(found["b"]["c"][0]) is dict


@given(SETTINGS)
def test_settings_do_not_differ_from_themselves(settings):
    assert differ(settings, json.loads(json.dumps(settings))) is None


@given(SETTINGS, st.data())
def test_a_value_that_only_one_side_has_set_otherwise_is_found(settings, data):
    flat = comparable(settings)
    assume(flat)
    key = data.draw(st.sampled_from(sorted(flat)))
    other = flat | {key: f"not {flat[key]}"}
    assert difference(flat, other) == f"{key} {flat[key]}, this command says {other[key]}"
    del other[key]
    assert difference(flat, other) is None and difference(other, flat) is None


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", "other"),
        ("runs_dir", "elsewhere"),
        ("trainer.accelerator", "gpu"),
        ("trainer.devices", 4),
        ("trainer.logger", {"class_path": "CSVLogger"}),
        ("trainer.callbacks", []),
        ("ckpt_path", "last"),
        ("threads", 8),
        ("compile", True),
        ("model.class_path", "dydiff.agents.td3bc.TD3BC"),
        ("rollout.class_path", "callbacks.rollout.SyntheticRollout"),
        ("data.init_args.source.init_args.path", "/there/a.hdf5"),
        ("model.init_args.gamma", 0.99),  # its default
    ],
)
def test_place_machine_and_spelling_do_not_count(key, value):
    assert differ(RUN, changed(key, value)) is None and differ(changed(key, value), RUN) is None


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("seed_everything", 1, "seed_everything 0, this command says 1"),
        ("trainer.max_epochs", 4, "trainer.max_epochs 3, this command says 4"),
        ("model.class_path", "dydiff.agents.CQL", "model.class_path dydiff.agents.td3bc.TD3BC, this command says dydi"),
        ("model.init_args.gamma", 0.9, "model.gamma 0.99, this command says 0.9"),
        ("model.init_args.hidden_sizes", [16], "model.hidden_sizes [16, 16], this command says [16]"),
        ("data.init_args.source.init_args.path", "/here/b.hdf5", "data.source.path a.hdf5, this command says b.hdf5"),
        ("rollout", None, "rollout.class_path callbacks.SyntheticRollout, this command says None"),
        ("pretrained_seed", 2, "pretrained_seed None, this command says 2"),
    ],
)
def test_what_shapes_a_run_counts(key, value, said):
    assert differ(RUN, changed(key, value)).startswith(said)


@pytest.mark.parametrize("earlier", [None, {"class_path": "lightning.pytorch.callbacks.Callback"}, {}])
def test_no_rollout_is_one_setting_however_a_version_wrote_it(earlier):
    assert differ(changed("rollout", earlier), changed("rollout", None)) is None
    assert differ(changed("rollout", earlier), RUN).startswith("rollout.class_path None, this command says callbacks.")


def test_the_earlier_name_of_the_pretrained_seed_counts():
    earlier = {key: value for key, value in RUN.items() if key != "pretrained_seed"} | {"parts_seed": 3}
    assert differ(earlier, changed("pretrained_seed", 3)) is None
    assert differ(earlier, RUN) == "pretrained_seed 3, this command says None"


def test_a_class_that_is_there_no_longer_is_compared_by_its_name():
    assert differ(changed("model.class_path", "dydiff.agents.Gone"), RUN).startswith(
        "model.class_path dydiff.agents.Go"
    )
    assert address("dydiff.agents.Gone") == "dydiff.agents.Gone" and address("dydiff.gone.TD3BC") == "dydiff.gone.TD3BC"


def test_comparing_a_class_of_others_does_not_import_it(tmp_path, monkeypatch):
    (tmp_path / "strange_module.py").write_text("raise SystemExit")
    monkeypatch.syspath_prepend(tmp_path)
    assert difference({"rule": "dydiff.data.never"}, {"rule": "dydiff.data.termination.never"}) is None
    said = differ(changed("rollout.class_path", "strange_module.Rollout"), RUN)
    assert said == "rollout.class_path strange_module.Rollout, this command says callbacks.SyntheticRollout"


def test_classes_within_lists_have_one_address():
    """But for callbacks: what is hashed must stay as it was when models were trained."""
    assert addressed({"class_path": "callbacks.LastCheckpoint"}) == {"class_path": "callbacks.LastCheckpoint"}
    settings = [{"class_path": "dydiff.agents.TD3BC", "init_args": {"inner": {"class_path": "x.Y"}}}]
    assert addressed(settings) == [
        {"class_path": "dydiff.agents.td3bc.TD3BC", "init_args": {"inner": {"class_path": "x.Y"}}}
    ]


def test_shaping_settings_leave_their_input_as_it_is():
    before = json.dumps(RUN)
    assert set(shaping(RUN)["trainer"]) == {"max_epochs", "callbacks"}
    comparable(RUN)
    assert json.dumps(RUN) == before


class Inner:
    def __init__(self, gamma=0.9, lr=0.1):
        pass


class Outer(Inner):
    def __init__(self, *args, lr=0.2, width=8, **kwargs):
        super().__init__(*args, lr=lr, **kwargs)


def test_arguments_that_a_class_passes_on_are_its_own_too():
    defaults = {name: argument.default for name, argument in arguments_of("test_settings.Outer").items()}
    assert defaults == {"gamma": 0.9, "lr": 0.2, "width": 8}
    with pytest.raises(AttributeError):
        arguments_of("test_settings.Gone")


CHECKPOINT = {"_class_path": "dydiff.agents.td3bc.TD3BC", "gamma": 0.9, "sizes": (16, 16), "obs_dim": 3}


@pytest.mark.parametrize(
    ("class_path", "settings", "said"),
    [
        ("dydiff.agents.CQL", {"gamma": 0.9, "sizes": [16, 16]}, "was made by dydiff.agents.td3bc.TD3BC, this command"),
        ("dydiff.agents.TD3BC", {"gamma": 0.8, "sizes": [16, 16]}, "made with model.gamma 0.9, this command says 0.8"),
        ("dydiff.agents.TD3BC", {"gamma": 0.9, "sizes": [16]}, r"made with model.sizes \[16, 16\], this command says"),
        ("dydiff.agents.TD3BC", {"gamma": 0.9}, r"model.sizes \[16, 16\], an option that .* no longer has"),
    ],
)
def test_a_checkpoint_of_other_settings_is_refused(class_path, settings, said):
    with pytest.raises(UserError, match=said):
        check_settings({"hyper_parameters": CHECKPOINT}, class_path, settings)


def test_a_checkpoint_of_the_same_settings_is_taken():
    """An option that came later is not in it; the dimensions are the dataset's."""
    same = {"gamma": 0.9, "sizes": [16, 16], "later": 1, "obs_dim": None}
    for class_path in ("dydiff.agents.TD3BC", "dydiff.agents.td3bc.TD3BC"):
        check_settings({"hyper_parameters": CHECKPOINT}, class_path, same)
    check_settings({}, "dydiff.agents.TD3BC", same)


def test_paths_of_configs_are_found_and_made_absolute(tmp_path, monkeypatch):
    """So that a config that is saved elsewhere still finds them."""
    monkeypatch.chdir(tmp_path)
    Path("models").mkdir()
    for name in ("den", "rew", "run"):
        Path(f"models/{name}.yaml").touch()
    inner = {"reward": Path_fr("models/rew.yaml"), "text": "models/rew.yaml", "count": 3}
    den = Path_fr("models/../models/den.yaml")
    config = Namespace(config=Path_fr("models/run.yaml"), a=Namespace(den=den), b=inner)
    expected = {tmp_path / "models/den.yaml", tmp_path / "models/rew.yaml"}
    assert {Path(os.path.normpath(path)) for path in config_paths(config)} == expected
    make_absolute(config)
    monkeypatch.chdir(tmp_path / "models")
    assert str(config.a.den) == str(tmp_path / "models/den.yaml") and isinstance(config.a.den, Path_fr)
    assert str(inner["reward"]) == str(tmp_path / "models/rew.yaml")
    assert inner["text"] == "models/rew.yaml" and inner["count"] == 3
