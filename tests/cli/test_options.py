"""How options and files make a config."""

from pathlib import Path

import pytest
from conftest import ROOT
from whole_run import fit

from dydiff.cli import main
from dydiff.cli.lightning_cli import parse

CONFIGS = ROOT / "configs"


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
