"""Reports of runs whose scores are known."""

import csv

import numpy as np
import pytest
import yaml
from tiny import QUIET
from torch.utils.tensorboard import SummaryWriter

from dydiff.cli import main
from dydiff.report.plots import ablation_points
from dydiff.report.runs import longest, read_runs
from dydiff.report.scores import by_label, paper_scores

STEPS = (100, 200, 300)


def write_run(
    folder,
    scores,
    method="Base",
    seed=0,
    dataset="hopper-medium-replay-v2",
    planned=300,
    split_seed=0,
    lr=0.1,
    **settings,
):
    """The log folder of a run with Lightning's CSV logger."""
    rollout = {"class_path": "lightning.pytorch.callbacks.Callback"}
    if method != "Base":
        name, _, initial = method.partition("-")
        known = {"S": "Softmax", "H": "Hardmax"}
        filter = {"class_path": f"x.{known.get(initial)}", "init_args": {"keep_ratio": settings.pop("keep_ratio", 0.6)}}
        synthesizer = {"class_path": f"x.{name}", "init_args": settings}
        rollout = {"class_path": "x", "init_args": {"synthesizer": synthesizer, "filter": filter if initial else None}}
    config = {
        "seed_everything": seed, "name": str(folder), "trainer": {"max_epochs": 3, "devices": seed + 1},
        "model": {"class_path": "dydiff.agents.TD3BC", "init_args": {"lr": lr}},
        "data": {"class_path": "x", "init_args": {
            "updates_per_epoch": planned // 3,
            "source": {"class_path": "x", "init_args": {"path": str(folder), "split_seed": split_seed}}}},
        "rollout": rollout}  # fmt: skip
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "hparams.yaml").write_text(yaml.safe_dump({"dataset": dataset}))
    with (folder / "metrics.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["step", "train/q_mean", "eval/score"])
        for step, score in zip(STEPS, scores, strict=False):
            rows.writerow([step - 50, step / 2 + seed, ""])
            rows.writerow([step, "", score])


def table(report, title):
    """The first table after a line of a report: rows of cells."""
    lines = report.partition(title)[2].split("\n\n")[1].splitlines()
    return {cells[0]: cells[1:] for cells in ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)}


@pytest.fixture
def report(tmp_path):
    def make(*options):
        folders = str(tmp_path / "runs"), "--out", str(tmp_path / "out")
        assert main(["report", *folders, "--reps", "200", *options]) == 0
        return (tmp_path / "out/report.md").read_text()

    return make


def test_tables_have_last_and_best_scores_and_the_papers(tmp_path, report):
    for seed, last in enumerate((10.0, 20.0, 60.0)):
        write_run(tmp_path / f"runs/base{seed}", (5.0, 70.0, last), seed=seed)
        write_run(tmp_path / f"runs/dydiff{seed}", (5.0, 80.0, last + 60), "DyDiff-S", seed)
        write_run(tmp_path / f"runs/other{seed}", (1.0, 2.0, 3.0), seed=seed, dataset="mine")
    text = report()
    last, best = table(text, "Score of the last"), table(text, "Best score of all")
    assert last["dataset"] == ["Base", "DyDiff-S"]
    assert last["hopper-medium-replay-v2"] == ["30.0 ± 26.5 (3)", "90.0 ± 26.5 (3)"]
    assert last["mine"] == ["3.0 ± 0.0 (3)", ""] and last["mean of datasets"] == ["16.5", ""]
    assert best["hopper-medium-replay-v2"] == ["70.0 ± 0.0 (3)", "93.3 ± 23.1 (3)"]
    assert table(text, "The paper's:")["hopper-medium-replay-v2"] == ["63.9 ± 26.4", "94.7 ± 4.4"]
    assert "the agent alone makes 500,000 updates, with DyDiff 1,000,000; which evaluation is reported" in text
    for seed in (0, 1):
        write_run(tmp_path / f"runs/hardmax{seed}", (0.0, 0.0, seed), "DyDiff-H", seed, dataset="mine")
        write_run(tmp_path / f"runs/synther{seed}", (0.0, 0.0, seed), "SynthER", seed, dataset="mine")
    last = table(report(), "Score of the last")
    assert last["method"] == ["hopper-medium-replay-v2", "mine", "mean of datasets"]  # the longer side goes down
    assert last["DyDiff-H"] == ["", "0.5 ± 0.7 (2)", ""] and last["Base"][2] == "16.5"


def test_each_dataset_has_intervals_of_the_methods_with_several_seeds(tmp_path, report):
    for seed in range(5):
        for dataset in ("a", "b"):
            write_run(tmp_path / f"runs/base{dataset}{seed}", (0, 0, 50 + seed % 2), seed=seed, dataset=dataset)
        write_run(tmp_path / f"runs/soft{seed}", (0, 0, 60), "DyDiff-S", seed, dataset="b")
    for seed in range(4):
        write_run(tmp_path / f"runs/hard{seed}", (0, 0, 70), "DyDiff-H", seed, dataset="b")
    text = report()
    assert "No interval where there are fewer than 5 seeds: DyDiff-H." in text
    assert "Over a:" not in text and "Over a, b:" not in text and "profiles" not in text  # nothing to compare with
    over = table(text, "Over b:")
    assert list(over) == ["method", "---", "Base", "DyDiff-S"]
    assert over["DyDiff-S"][3] == "1.000 [1.000, 1.000]" and over["Base"][1] == "0.504 [0.500, 0.508]"


def test_the_score_at_the_end_is_the_mean_of_as_many_evaluations_as_asked(tmp_path, report, capsys):
    write_run(tmp_path / "runs/base0", (99.0, 10.0, 20.0))
    write_run(tmp_path / "runs/base1", (99.0, 30.0, 50.0), seed=1)
    text = report("--num_last", "2")
    assert table(text, "Mean score of the last 2 evaluations")["hopper-medium-replay-v2"] == ["27.5 ± 17.7 (2)"]
    with (tmp_path / "out/scores.csv").open(newline="") as file:
        assert [(row["last"], row["end"]) for row in csv.DictReader(file)] == [("20", "15"), ("50", "40")]
    assert main(["report", str(tmp_path / "runs"), "--num_last", "4"]) == 2
    assert "num_last is 4; give 1 to 3" in capsys.readouterr().err


def test_aggregates_are_the_closed_forms(tmp_path, report):
    """Five seeds on two datasets: an interquartile mean of ten scores leaves two out at either end."""
    scores = {"Base": (0, 10, 20, 30, 40, 50, 60, 70, 80, 110), "DyDiff-S": (61, 62, 63, 64, 65, 66, 67, 68, 69, 120)}
    for method, values in scores.items():
        for i, value in enumerate(values):
            write_run(tmp_path / f"runs/{method}{i}", (0, 0, value), method, i % 5, dataset=f"d{i // 5}")
    text = report()
    assert "Over d0:" in text and "Over d1:" in text and (tmp_path / "out/td3bc_profiles.png").stat().st_size > 5000
    rows = table(text, "Over d0, d1:")
    names = rows["method"]
    points = {key: dict(zip(names, (float(cell.split()[0]) for cell in cells if cell), strict=False))
              for key, cells in rows.items() if key in scores}  # fmt: skip
    base = np.array(scores["Base"]) / 100
    assert points["Base"]["IQM"] == pytest.approx(0.45)
    assert points["Base"]["mean"] == pytest.approx(base.mean(), abs=1e-3)
    assert points["Base"]["optimality gap"] == pytest.approx((1 - base.clip(max=1)).mean(), abs=1e-3)
    # On each dataset, 25 pairs: all are won on the first; on the second two by each of four runs, five by the last.
    assert points["DyDiff-S"]["P(> Base)"] == pytest.approx((25 + 4 * 2 + 5) / 50, abs=1e-3)
    low, high = map(float, rows["Base"][0].partition("[")[2].rstrip("]").split(", "))
    assert 0.1 < low < 0.45 < high < 0.8


def test_settings_that_vary_set_runs_apart_and_are_drawn(tmp_path, report):
    for value in (0, 1, 2):
        for seed in (0, 1):
            write_run(
                tmp_path / f"runs/{value}-{seed}", (0, 0, 10 * value + seed), "DyDiff-S", seed, num_corrections=value
            )
    write_run(tmp_path / "runs/base", (0, 0, 4))
    labels = [f"DyDiff-S, num_corrections={m}" for m in (0, 1, 2)]
    assert list(table(report(), "Score of the last")) == ["method", "---", "Base", *labels]
    assert (tmp_path / "out/td3bc_hopper-medium-replay-v2_ablation.png").stat().st_size > 5000
    with (tmp_path / "out/scores.csv").open(newline="") as file:
        rows = {(row["setting"], row["seed"]): row for row in csv.DictReader(file)}
    assert len(rows) == 7 and rows["num_corrections=2", "1"]["last"] == "21"


def test_what_most_runs_share_is_not_shown(tmp_path, report):
    """One setting varied at a time, and two that vary together, around the same usual values."""
    variants = [{}, {"num_corrections": 0}, {"num_corrections": 2}, {"length": 8, "batch": 4}]
    for index, variant in enumerate(variants):
        settings = {"num_corrections": 1, "length": 32, "batch": 1} | variant
        for seed in (0, 1):
            write_run(tmp_path / f"runs/{index}-{seed}", (0, 0, 10 * index), "DyDiff-S", seed, **settings)
    for value in (1, 2):
        write_run(tmp_path / f"runs/hardmax-{value}", (0, 0, value), "DyDiff-H", num_corrections=value)
    assert list(table(report(), "Score of the last"))[2:] == [
        "DyDiff-H", "DyDiff-H, num_corrections=2",
        "DyDiff-S", "DyDiff-S, batch=4, length=8", "DyDiff-S, num_corrections=0", "DyDiff-S, num_corrections=2",
    ]  # fmt: skip
    runs = read_runs([str(tmp_path / "runs")])
    drawn = ablation_points(runs)
    assert drawn == {
        ("DyDiff-H", "num_corrections"): {1: [1], 2: [2]},
        ("DyDiff-S", "num_corrections"): {0: [10, 10], 1: [0, 0], 2: [20, 20]},
        ("DyDiff-S", "length"): {8: [30, 30], 32: [0, 0]},
    }


def test_an_agents_setting_sets_a_method_apart_that_has_it_in_all_runs(tmp_path):
    """Of methods compared with one learning rate and one with another, the other is named."""
    for seed in range(2):
        write_run(tmp_path / f"base{seed}", (0, 0, 50), seed=seed)
        write_run(tmp_path / f"soft{seed}", (0, 0, 50), "DyDiff-S", seed)
        write_run(tmp_path / f"hard{seed}", (0, 0, 50), "DyDiff-H", seed, lr=0.5)
    assert {run.label for run in read_runs([str(tmp_path)])} == {"Base", "DyDiff-S", "DyDiff-H, lr=0.5"}


def test_a_label_means_the_same_on_every_dataset(tmp_path):
    """One dataset has both values of a setting, the others have one of them, which none of their runs differs in."""
    for dataset, values in {"a": (1, 2), "b": (2,), "c": (1,)}.items():
        for value in values:
            write_run(tmp_path / f"runs/{dataset}{value}", (0, 0, 1), "DyDiff-S", dataset=dataset, a=value)
    write_run(tmp_path / "runs/other", (0, 0, 1), "DyDiff-H", a=1)
    labels = {(run.dataset, run.settings["rollout.synthesizer.a"]): run.label for run in read_runs([str(tmp_path)])}
    assert labels["a", 1] == labels["c", 1] == "DyDiff-S"
    assert labels["a", 2] == labels["b", 2] == "DyDiff-S, a=2"


def test_a_setting_that_came_later_has_its_default_in_older_runs(tmp_path):
    for seed, arguments in enumerate(({}, {"clone_synthetic": True}, {"clone_synthetic": False})):
        write_run(tmp_path / f"runs/{seed}", (0, 0, 1), seed=seed)
        path = tmp_path / f"runs/{seed}/config.yaml"
        config = yaml.safe_load(path.read_text())
        config["model"]["init_args"] |= arguments
        path.write_text(yaml.safe_dump(config))
    assert {run.seed: run.label for run in read_runs([str(tmp_path)])} == {
        0: "Base", 1: "Base", 2: "Base, clone_synthetic=False"
    }  # fmt: skip


def test_a_switch_is_no_axis(tmp_path):
    for seed, value in enumerate((True, True, False)):
        write_run(tmp_path / f"runs/{seed}", (0, 0, 1), "DyDiff-S", seed, a=value)
    assert ablation_points(read_runs([str(tmp_path / "runs")])) == {}


def test_a_full_grid_of_two_settings_is_listed_in_full_and_not_drawn(tmp_path):
    for a in (1, 2):
        for b in (1, 2):
            write_run(tmp_path / f"runs/{a}{b}", (0, 0, 1), "DyDiff-S", a=a, b=b)
    runs = read_runs([str(tmp_path / "runs")])
    assert {run.label for run in runs} == {f"DyDiff-S, a={a}, b={b}" for a in (1, 2) for b in (1, 2)}
    assert ablation_points(runs) == {}


def test_runs_of_other_splits_of_a_dataset_are_not_one_run(tmp_path):
    for split_seed in (0, 1):
        write_run(tmp_path / f"runs/{split_seed}", (0, 0, split_seed), split_seed=split_seed)
    assert {run.label for run in read_runs([str(tmp_path / "runs")])} == {"Base, split_seed=0", "Base, split_seed=1"}


def test_runs_of_two_checkouts_are_of_one_method(tmp_path):
    for seed, place in enumerate(("one", "other")):
        write_run(tmp_path / f"runs/{seed}", (0, 0, 1), "DyDiff-S", seed, denoiser=f"{place}/configs/denoiser.yaml")
    assert {run.label for run in read_runs([str(tmp_path / "runs")])} == {"DyDiff-S"}


def test_q_values_at_the_end_are_reported(tmp_path, report):
    for seed in (0, 1):
        write_run(tmp_path / f"runs/{seed}", (1, 2, 3), seed=seed)
    assert table(report(), "Mean Q value")["hopper-medium-replay-v2"] == ["150.5 ± 0.7 (2)"]


@pytest.mark.parametrize("text", ["a: [", "\xff"])
def test_a_broken_config_is_named(tmp_path, capsys, text):
    write_run(tmp_path / "runs/good", (1, 2, 3))
    (tmp_path / "runs/other").mkdir()
    (tmp_path / "runs/other/config.yaml").write_text("data: of something else")
    assert len(read_runs([str(tmp_path / "runs")])) == 1
    (tmp_path / "runs/other/config.yaml").write_text(text, encoding="latin-1")
    assert main(["report", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == 2
    assert "other/config.yaml is broken: remove its folder" in capsys.readouterr().err


def test_unfinished_runs_are_left_out_and_of_two_the_longer_counts(tmp_path, report, capsys):
    write_run(tmp_path / "runs/a/version_0", (1, 2), seed=0)
    write_run(tmp_path / "runs/a/version_1", (1, 2, 50), seed=0)
    write_run(tmp_path / "runs/b", (1, 2), seed=1)
    assert table(report(), "Score of the last")["hopper-medium-replay-v2"] == ["50.0 (1)"]
    assert f"at update 200 of 300: {tmp_path}/runs/b" in capsys.readouterr().out


def test_a_run_whose_last_epochs_are_not_evaluated_is_finished(tmp_path):
    write_run(tmp_path / "run", (1, 2))
    path = tmp_path / "run/config.yaml"
    config = yaml.safe_load(path.read_text())
    config["trainer"] |= {"max_epochs": 5, "check_val_every_n_epoch": 2}
    config["data"]["init_args"]["updates_per_epoch"] = 50
    path.write_text(yaml.safe_dump(config))
    assert read_runs([str(tmp_path)])[0].finished


def test_a_report_can_be_made_again_without_the_logs(tmp_path, monkeypatch, capsys):
    """To the byte, bootstrap intervals included."""
    for seed in (0, 1, 2):
        for value in (0, 1):
            scores = (1 / 3, seed, 10 * value + seed**2)
            write_run(tmp_path / f"runs/{value}-{seed}", scores, "DyDiff-S", seed, num_corrections=value)
        write_run(tmp_path / f"runs/base{seed}", (0, 0, 4 + 3 * seed**2), seed=seed)
    monkeypatch.chdir(tmp_path)
    assert main(["report", "runs", "--reps", "20", "--num_last", "2"]) == 0
    made = {path.name: path.read_bytes() for path in (tmp_path / "report").iterdir()}
    assert b"num_corrections" in made["report.md"] and str(tmp_path).encode() not in made["runs.jsonl"]
    (tmp_path / "runs").rename(tmp_path / "gone")
    kept = tmp_path / "kept.jsonl"
    (tmp_path / "report/runs.jsonl").rename(kept)
    assert main(["report", str(kept), "--reps", "20", "--num_last", "2"]) == 0
    assert {path.name: path.read_bytes() for path in (tmp_path / "report").iterdir()} == made
    write_run(tmp_path / "more/base3", (0, 0, 4), seed=3)  # logs and kept ones together, none counted twice
    runs = longest(read_runs([str(kept), "more", "more/base3", "gone"]))
    assert [run.seed for run in runs if run.method == "Base"] == [0, 1, 2, 3]
    kept.write_text(kept.read_text()[:-9])
    assert main(["report", str(kept)]) == 2 and "kept.jsonl is not a file of logs" in capsys.readouterr().err
    for nowhere in ("no.jsonl", "rusn"):
        assert main(["report", "more", nowhere]) == 2 and f"There is no {nowhere}." in capsys.readouterr().err


def test_a_run_that_another_stands_for_is_named(tmp_path, report, capsys):
    write_run(tmp_path / "runs/long", (1.0, 2.0, 3.0))
    write_run(tmp_path / "runs/short", (4.0, 5.0))
    report()
    printed = capsys.readouterr().out
    assert f"Left out, as {tmp_path}/runs/long has the same settings and seed: {tmp_path}/runs/short" in printed
    assert "1 runs, written" in printed


@pytest.mark.parametrize(
    "ends", [{"max_epochs": None}, {"max_epochs": 2000, "max_steps": 300}, {"max_time": "00:01:00:00"}]
)
def test_a_run_that_other_than_epochs_ends_counts_as_it_stands(tmp_path, ends):
    write_run(tmp_path / "run", (1.0, 2.0))
    path = tmp_path / "run/config.yaml"
    config = yaml.safe_load(path.read_text())
    config["trainer"] |= ends
    path.write_text(yaml.safe_dump(config))
    assert read_runs([str(tmp_path)])[0].finished


@pytest.mark.parametrize("scores", [None, (1.0,)])
def test_nothing_to_report_is_one_line(tmp_path, capsys, scores):
    (tmp_path / "runs").mkdir()
    if scores:
        write_run(tmp_path / "runs/a", scores)
    assert main(["report", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.startswith("error: No") and not (tmp_path / "out").exists()


def test_tensorboard_and_csv_logs_say_the_same(place):
    both = {"TB": "TensorBoardLogger", "CSV": "CSVLogger"}
    base = ["--rollout", "null"]
    for name, logger in both.items():
        arguments = f"{{class_path: {logger}, init_args: {{save_dir: runs}}}}"
        assert main(["fit", "--config", "run.yaml", *QUIET, *base, "--name", name, "--trainer.logger", arguments]) == 0
    runs = [read_runs([f"runs/{name}"])[0] for name in both]
    assert runs[0].steps == runs[1].steps and runs[0].finished and runs[1].finished
    assert runs[0].scores == pytest.approx(runs[1].scores)
    assert runs[0].label == "Base" and len(by_label(runs)) == 1


def test_minutes_leave_out_the_break_before_a_run_resumes(tmp_path):
    """Ten minutes of which the last five are lost with the checkpoint's rest, an hour of nothing, five minutes more."""
    run = tmp_path / "run"
    write_run(run, ())
    (run / "metrics.csv").unlink()
    start = 1_700_000_000
    for part, records in enumerate([((0, 0), (100, 5), (200, 10)), ((150, 70), (300, 75))]):
        writer = SummaryWriter(str(tmp_path / str(part)), purge_step=150 if part else None)
        for step, minute in records:
            writer.add_scalar("eval/score", step, step, walltime=start + 60 * minute)
        writer.close()
        (written,) = (tmp_path / str(part)).iterdir()
        written.rename(run / f"events.out.tfevents.{start + 60 * records[0][1]}.here.1.{part}")
    (read,) = read_runs([str(run)])
    assert read.steps == [0, 100, 150, 300]
    assert read.log.minutes == pytest.approx(10)


def test_logs_that_are_given_twice_do_not_change_what_is_usual(tmp_path, monkeypatch, capsys):
    """Two runs of one value and three of another: twice two would be more than three."""
    for seed in range(5):
        write_run(tmp_path / f"runs/{seed}", (1, 2, 3), "DyDiff-S", seed, num_corrections=int(seed > 1))
    monkeypatch.chdir(tmp_path)
    assert main(["report", "runs/0", "runs/1", "--out", "first", "--reps", "20"]) == 0
    assert main(["report", "first/runs.jsonl", "runs", "--reps", "20"]) == 0
    assert "Left out" not in capsys.readouterr().out
    assert list(table((tmp_path / "report/report.md").read_text(), "Score of the last")) == [
        "method", "---", "DyDiff-S", "DyDiff-S, num_corrections=0"
    ]  # fmt: skip


def test_the_papers_numbers_are_there():
    scores = paper_scores()
    assert len(scores) == 135 and scores["maze2d-large-v1", "diffql", "DyDiff-S"] == (197, 15)  # percent, as ours


def test_a_report_for_a_paper(tmp_path, report):
    """Names of one's own, vector plots, LaTeX, the same bytes twice."""
    for seed in range(5):
        write_run(tmp_path / f"runs/base{seed}", (0, 0, 50 + seed), seed=seed)
        write_run(tmp_path / f"runs/ours{seed}", (0, 0, 60 + seed), "DyDiff-S", seed)
    options = ("--labels", '{"Base": "TD3+BC", "DyDiff-S": "50% & more"}', "--formats", "[pdf,svg]")
    text = report(*options)
    assert table(text, "Score of the last")["50% & more"] == ["62.0 ± 1.6 (5)"] and "DyDiff-S" not in text
    assert "td3bc_curves.pdf" in text and "P(> TD3+BC)" in text
    assert (tmp_path / "out/td3bc_profiles.svg").is_file() and not list((tmp_path / "out").glob("*.png"))
    latex = (tmp_path / "out/tables.tex").read_text()
    assert r"50\% \& more & 62.0 $\pm$ 1.6 (5) \\" in latex and latex.count(r"\begin{tabular}") == 1
    first = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    report(*options)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == first


@pytest.mark.parametrize(
    ("labels", "message"),
    [('{"DyDif": "ours"}', "No method is labelled 'DyDif'"), ('{"Base": "x", "DyDiff-S": "x"}', "the same name")],
)
def test_labels_that_cannot_be_given(tmp_path, capsys, labels, message):
    write_run(tmp_path / "runs/base", (0, 0, 50))
    write_run(tmp_path / "runs/ours", (0, 0, 60), "DyDiff-S")
    assert main(["report", str(tmp_path / "runs"), "--out", str(tmp_path / "out"), "--labels", labels]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_report_says_what_its_runs_were_computed_with(place, tmp_path):
    import torch

    options = ("--rollout=null", "--trainer.max_epochs=1")
    assert main(["fit", "--config", "run.yaml", *QUIET, *options]) == 0
    write_run(tmp_path / "runs/earlier", (0, 0, 50))
    assert main(["report", "runs", "--out", "out"]) == 0
    text = (tmp_path / "out/report.md").read_text()
    found = table(text, "Recorded by 1 of 2 runs.")
    assert found["torch"] == [torch.__version__] and found["processor"][0].endswith("cores")
    assert main(["report", "out/runs.jsonl", "--out", "again"]) == 0
    assert (tmp_path / "again/report.md").read_text() == text
