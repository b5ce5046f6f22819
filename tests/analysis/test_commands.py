"""The commands ``analyze <what>``."""

import csv
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from tiny import model_config, write_yaml
from whole_run import TRANSITIONS, fit

from dydiff.cli import main


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


def test_analyses_over_seeds_of_the_models_come_in_one_table(place):
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
    out = capsys.readouterr().out
    c_d, c_pi, c = map(float, re.search(r"C_d = ([\d.]+), C_pi = ([\d.]+), so C = ([\d.]+)\.", out).groups())
    assert c == pytest.approx(c_d * c_pi, abs=0.02 * (c_d + c_pi + 1))
    assert f"C < 1: {'yes' if c < 1 else 'no'}" in out and "Measured errors within eq. 17:" in out
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
    write_yaml(Path("pretrain/transitions.yaml"), model_config(model, "TransitionDataModule", width=16, num_layers=2))
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
    write_yaml(Path("pretrain/transitions.yaml"), model_config(model, "TransitionDataModule", **size))
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
    out = capsys.readouterr().out
    metrics = yaml.safe_load(Path("rolled/result.yaml").read_text())
    assert f"dynamics error mean {metrics['dynamics_error']:.2e} median {metrics['median']:.2e}" in out
