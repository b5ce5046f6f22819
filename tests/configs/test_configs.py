"""The shipped configs, and the commands, options and links in the documents."""

import re
import shlex
from pathlib import Path

import pytest
import yaml
from conftest import ROOT

from dydiff.cli import main
from dydiff.cli.entry import functions_of
from dydiff.cli.lightning_cli import parse
from dydiff.run.pretraining import make_source
from dydiff.run.settings import plain
from dydiff.sweep.trials import expand

CONFIGS, STUDIES = ROOT / "configs", ROOT / "studies"
OVERLAYS = ("ddp", "small")
RUNS = sorted(path for path in CONFIGS.glob("*.yaml") if path.stem not in OVERLAYS)
ANALYSES = sorted([*CONFIGS.glob("analysis/*.yaml"), *STUDIES.glob("*/analysis/*.yaml")])
SWEEPS = sorted([*CONFIGS.glob("sweep/**/*.yaml"), *STUDIES.glob("*/sweep/*.yaml")])
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *(path for place in ("configs", "docs", "studies") for path in ROOT.glob(f"{place}/**/*.md")),
]


def named(path):
    return str(path.relative_to(ROOT).with_suffix(""))


def run(*options):
    """The settings of a ``fit`` command, as plain values."""
    return plain(parse(["fit", *map(str, options)]))


def init_args(name):
    return yaml.safe_load((CONFIGS / f"rollout/{name}.yaml").read_text())["init_args"]


@pytest.mark.parametrize("path", RUNS, ids=named)
def test_every_run_goes_with_both_overlays(path):
    alone = run("--config", path)
    both = run("--config", path, "--config", CONFIGS / "small.yaml", "--config", CONFIGS / "ddp.yaml")
    assert both["model"] == alone["model"]
    assert both["data"]["init_args"] == {**alone["data"]["init_args"], "batch_size": 64, "updates_per_epoch": 1000}
    assert both["trainer"]["max_epochs"] == 100 and both["trainer"]["strategy"] == "ddp"
    rollout = both["rollout"]["init_args"]
    assert rollout["synthesizer"]["class_path"] == "dydiff.rollout.DyDiff"
    assert Path(str(rollout["synthesizer"]["init_args"]["denoiser"])).stem == "denoiser_small"
    assert (rollout["rollout_batch_size"], rollout["synthetic_capacity"]) == (512, 157286)
    callbacks = [each["class_path"] for each in both["trainer"]["callbacks"]]
    assert callbacks == ["callbacks.StageProgress", "callbacks.QValueWatch", "callbacks.LastCheckpoint"]


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("agent/*.yaml")), ids=named)
@pytest.mark.parametrize("small", [[], ["--config", CONFIGS / "small.yaml"]], ids=["paper", "small"])
def test_every_agent_takes_the_place_of_a_runs_own(path, small):
    cell = ["--config", CONFIGS / "td3bc_hopper_mr.yaml", *small]
    alone, given = run(*cell), yaml.safe_load(path.read_text())
    settings = run(*cell, "--config", path)
    assert settings["model"]["class_path"].rsplit(".")[-1].lower() == path.stem
    assert given["model"].get("init_args", {}).items() <= settings["model"]["init_args"].items()
    changed = given.get("data", {}).get("init_args", {})
    assert settings["data"]["init_args"] == {**alone["data"]["init_args"], **changed}
    assert settings["rollout"] == (None if "rollout" in given else alone["rollout"])
    assert settings["trainer"] == alone["trainer"]


PAPER = [
    (f"{agent}_{env}_{data}", env, dataset)
    for agent in ("td3bc", "cql", "diffql")
    for env, data, dataset in [
        *((env, short, f"{env}-{name}-v2")
          for env in ("hopper", "halfcheetah", "walker2d")
          for short, name in (("md", "medium"), ("mr", "medium-replay"), ("me", "medium-expert"))),
        *(("maze2d", maze, f"maze2d-{maze}-v1") for maze in ("umaze", "medium", "large")),
    ]
]  # fmt: skip


@pytest.mark.parametrize(("name", "env", "dataset"), PAPER, ids=[name for name, _, _ in PAPER])
def test_every_cell_of_the_papers_tables_has_its_config(name, env, dataset):
    config = parse(["fit", "--config", str(CONFIGS / f"{name}.yaml")])
    assert config.model.class_path.rsplit(".")[-1].lower() == name.split("_")[0]
    assert config.data.init_args.source.init_args.dataset == dataset
    assert make_source(config.data.init_args.source).task.name.startswith(env)
    assert config.rollout.init_args.synthesizer.class_path == "dydiff.rollout.DyDiff"
    assert config.rollout.init_args.real_ratio == 0.6
    assert config.trainer.max_epochs * config.data.init_args.updates_per_epoch == 1_000_000


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("model/*.yaml")), ids=named)
def test_every_model_trains_by_itself_on_any_source(path):
    source = str(CONFIGS / "dataset/hopper_mr.yaml")
    assert parse(["fit", "--config", str(path), "--data.source", source]).data.init_args.source


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("rollout/*.yaml")), ids=named)
def test_every_rollout_replaces_that_of_a_run(path):
    rollout = run("--config", CONFIGS / "demo.yaml", "--rollout", path)["rollout"]
    given = yaml.safe_load(path.read_text()).get("init_args", {})
    assert given.keys() <= rollout.get("init_args", {}).keys()
    assert rollout == run("--config", CONFIGS / "demo.yaml", "--rollout=null", "--rollout", path)["rollout"]


def test_the_authors_procedure_is_the_papers_but_for_two_settings():
    paper, authors = init_args("dydiff"), init_args("dydiff_authors")
    assert authors["synthesizer"]["init_args"].pop("state_blend") == 0.5
    assert authors.pop("sample_actions") is False
    assert authors == paper


def test_one_option_makes_the_hardmax_filter_of_any_rollout():
    cell = run("--config", CONFIGS / "td3bc_hopper_mr.yaml")["rollout"]["init_args"]
    hard = run("--config", CONFIGS / "td3bc_hopper_mr.yaml", "--rollout.filter", "Hardmax")["rollout"]["init_args"]
    kept = cell["filter"]["init_args"]["keep_ratio"]
    assert hard == {**cell, "filter": {"class_path": "dydiff.rollout.Hardmax", "init_args": {"keep_ratio": kept}}}


@pytest.mark.parametrize("path", ANALYSES, ids=named)
def test_every_analysis_config_is_valid(path):
    with pytest.raises(SystemExit) as ended:
        main(["analyze", analysis_of(path), "--config", str(path), "--print_config"])
    assert ended.value.code == 0


def analysis_of(path):
    return next(filter(path.stem.startswith, functions_of("analyze")))


@pytest.mark.parametrize("path", SWEEPS, ids=named)
def test_every_sweep_is_valid(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    check_trials(yaml.safe_load(path.read_text()))


def check_trials(config, *extra):
    command = config.get("command", ["fit"])
    trials = expand(config["axes"], config["options"], extra)
    for trial in (trials[0], trials[len(trials) // 2], trials[-1]):
        if command[0] == "fit":
            settings = parse([*command, *trial.args])
            if "synther" in trial.name:  # of the rollout that the run's own config has, nothing is left
                assert settings.rollout.init_args.filter is None
        else:
            assert command[1] in functions_of("analyze")
            with pytest.raises(SystemExit) as ended:
                main([*command, *trial.args, "--print_config"])
            assert ended.value.code == 0


def test_sweeps_of_one_name_agree_on_the_runs_that_they_share(monkeypatch):
    """What a shared run is made of: the tables' base and DyDiff rows, and Fig. 1's."""
    monkeypatch.chdir(ROOT)
    made: dict[str, dict] = {}
    shared = set()
    for path in SWEEPS:
        config = yaml.safe_load(path.read_text())
        for trial in expand(config["axes"], config["options"]):
            key = f"{config['name']}/{trial.name}"
            if key in made and key.endswith("-0") and ("hopper_mr" in key or "fig1" in key):
                shared.add(key)
                assert parse(["fit", *trial.args]).rollout == parse(["fit", *made[key]]).rollout, key
            made.setdefault(key, trial.args)
    assert {"fig1/dydiff-0", "fig1/base-0", "paper/cql-hopper_mr-dydiff-0"} <= shared


OPTIONS = {
    option
    for document in DOCUMENTS
    for option in re.findall(r"`(--[^`]+)`", document.read_text())
    if " " in option
    and not re.search(r"my_package.(fell|MyFilter|MySource)|\.help|wandb|formats|labels|as_transitions", option)
}


@pytest.mark.parametrize("options", sorted(OPTIONS))
def test_every_option_in_the_documents_is_one(options, monkeypatch):
    monkeypatch.chdir(ROOT)
    spelled = shlex.split(options.replace("my_package.MyAgent", "dydiff.agents.TD3BC"))
    assert parse(["fit", "--config", "configs/td3bc_hopper_mr.yaml", *spelled]).model.class_path


def commands(document):
    """The indented commands of a document, continued lines joined; loops of the shell are left out."""
    text = document.read_text().replace("\\\n", " ")
    lines = re.findall(r"^ {4,}python -m dydiff ((?:fit|analyze|sweep) [^$\n]+)$", text, re.M)
    return [shlex.join(shlex.split(line, comments=True)) for line in lines if "my_package" not in line]


COMMANDS = sorted({(named(document), command) for document in DOCUMENTS for command in commands(document)})


@pytest.mark.parametrize(("document", "command"), COMMANDS)
def test_every_command_in_the_documents_is_one(document, command, monkeypatch):
    monkeypatch.chdir(ROOT)
    verb, *args = shlex.split(command)
    if verb == "sweep":
        extra = args[args.index("--") + 1 :] if "--" in args else []
        check_trials(yaml.safe_load(Path(args[args.index("--config") + 1]).read_text()), *extra)
    elif verb == "fit":
        if "--config runs/" not in command:  # that of a run
            assert parse([verb, *args]).model.class_path
    else:
        with pytest.raises(SystemExit) as ended:
            main([verb, *args, "--print_config"])
        assert ended.value.code == 0


LINKS = sorted(
    (named(document), link)
    for document in DOCUMENTS
    for link in re.findall(r'(?:\]\(|src=")([^)"\s]+)', document.read_text())
    if "://" not in link
)


@pytest.mark.parametrize(("document", "link"), LINKS)
def test_every_link_leads_to_a_file_and_a_heading(document, link):
    path, _, heading = link.partition("#")
    here = (ROOT / document).with_suffix(".md")
    there = here.parent / path if path else here
    assert there.exists()
    if heading:
        titles = re.findall(r"^#+ (.+)$", there.read_text(), re.M)
        anchors = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
        assert heading in anchors
