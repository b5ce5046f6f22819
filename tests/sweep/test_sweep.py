"""Sweeps: the grid, jobs that die, and whole sweeps on Ray Tune."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import h5py
import pytest
import yaml
from conftest import ROOT
from tiny import QUIET, write_yaml

from dydiff.cli import main
from dydiff.sweep.jobs import Job, claim_folder
from dydiff.sweep.trials import expand
from dydiff.sweep.worker import run_job
from dydiff.utils.errors import UserError

BASE = {"rollout": "null"}


def test_every_choice_of_the_axes_is_a_trial():
    axes = {"agent": ["td3bc", "cql"], "length": {"short": {"x": 10, "y": {"z": 1}}, "long": {}}, "seed": [0, 1]}
    trials = expand(axes, {"config": ["{agent}.yaml", "b.yaml"], "x": 100, "seed": "{seed}"}, ["--last"])
    assert [trial.name for trial in trials][:3] == ["td3bc-short-0", "td3bc-short-1", "td3bc-long-0"]
    assert len(trials) == 8
    begin = ("--config", "cql.yaml", "--config", "b.yaml")
    assert trials[-1].args == (*begin, "--x", "100", "--seed", "1", "--last")
    assert trials[-3].args == (*begin, "--x", "10", "--seed", "1", "--y", '{"z": 1}', "--last")


@pytest.mark.parametrize(
    ("axes", "options", "message"),
    [
        ({"seed": []}, {}, "axis 'seed' has no values"),
        ({"seed": [0]}, {"seed_everything": "{sed}"}, "names no axis of the sweep. Did you mean seed"),
        ({"data": ["a/b", "a b"]}, {}, "Two trials of the sweep would be called a_b"),
        ({"seed": [0]}, {"x": "{"}, "is no text with an axis in braces"),
    ],
)
def test_a_wrong_grid_is_refused(axes, options, message):
    with pytest.raises(UserError, match=message):
        expand(axes, options)


def job(folder, *code):
    """A job whose command is a line of Python, in the place of ``python -m dydiff``."""
    (folder / "dydiff.py").write_text("import sys; exec(sys.argv[1])")
    return Job("job", code, folder / "job", folder / "job" / "log.txt", folder / "job" / "finished")


def test_a_job_is_run_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    states = []
    once = job(tmp_path, "open('ran', 'a').write('x'); print('done')")
    for _ in range(2):
        run_job(once, lambda state: states.append(state["state"]))
    assert Path("ran").read_text() == "x" and once.last_words() == "done"
    assert states == ["finished", "finished"]


def test_a_wrong_job_is_not_tried_again_and_a_dead_one_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    states = []
    run_job(job(tmp_path, "print('error: no such thing'); sys.exit(2)"), lambda state: states.append(state["state"]))
    assert states == ["failed"]
    with pytest.raises(RuntimeError, match="ended with code -9: about to die"):
        run_job(
            job(tmp_path, "import os; print('about to die', flush=True); os.kill(os.getpid(), 9)"), lambda state: None
        )
    assert not (tmp_path / "job/finished").exists()


def test_a_run_that_was_asked_to_end_is_not_finished(place):
    """Lightning ends such a run in order, which once passed for success."""
    options = ["--config", "run.yaml", "--rollout", BASE["rollout"], *QUIET, "--trainer.max_epochs=100000"]
    folder = Path("runs/asked")
    asked = Job("asked", ("fit", *options, "--name", "asked"), folder, folder / "log.txt", folder / "finished")

    def ask():
        wait_for(lambda: list(folder.glob("version_0/checkpoints/last.ckpt")), 120)
        subprocess.run(["pkill", "-TERM", "-P", str(os.getpid()), "-f", "dydiff fit .*asked"], check=True)

    asking = threading.Thread(target=ask)
    asking.start()
    with pytest.raises(RuntimeError, match=r"ended with code 143: .*Resume with --ckpt_path last"):
        run_job(asked, lambda state: None)
    asking.join()
    assert not asked.is_finished


def test_a_command_that_leaves_nothing_behind_has_not_made_its_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = replace(job(tmp_path, "pass"), makes_finished=True)
    with pytest.raises(RuntimeError, match="ended with code 0"):
        run_job(model, lambda state: None)
    assert not model.finished.exists()


def test_a_job_of_two_sweeps_is_run_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shared = job(tmp_path, "import time; open('ran', 'a').write('x'); time.sleep(1)")
    sweeps = [threading.Thread(target=run_job, args=(shared, lambda state: None)) for _ in range(2)]
    for each in sweeps:
        each.start()
    for each in sweeps:
        each.join()
    assert Path("ran").read_text() == "x" and shared.is_finished


def test_a_job_dies_with_its_worker(tmp_path):
    """Else it would run twice: the worker's successor resumes it."""
    if sys.platform != "linux":
        pytest.skip("only Linux lets a process die with its parent")
    job(tmp_path)
    worker = tmp_path / "worker.py"
    worker.write_text(
        "from pathlib import Path\nfrom dydiff_worker import Job, run_job\nfolder = Path('job')\n"
        'code = \'import os, time; open("pid", "w").write(str(os.getpid())); time.sleep(60)\'\n'
        "run_job(Job('job', (code,), folder, folder / 'log.txt', folder / 'finished'), print)\n"
    )
    (tmp_path / "dydiff_worker.py").write_text(
        f"import sys\nsys.path.insert(0, {str(ROOT)!r})\nsys.modules.pop('dydiff', None)\n"
        "from dydiff.sweep.jobs import Job\nfrom dydiff.sweep.worker import run_job\n"
    )
    (tmp_path / "code").mkdir()
    (tmp_path / "dydiff.py").rename(tmp_path / "code" / "dydiff.py")
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "code")}
    parent = subprocess.Popen([sys.executable, str(worker)], cwd=tmp_path, env=environment)
    child = int(wait_for(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text()))
    parent.kill()
    parent.wait()
    wait_for(lambda: not alive(child))


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.1)
    raise AssertionError("It did not happen in time.")


def test_a_folder_belongs_to_one_setting(tmp_path):
    mine = job(tmp_path, "pass")
    for _ in range(2):
        claim_folder(mine, {"lr": 1e-4, "sizes": [3, 4], "filter": None})
    claim_folder(mine, {"lr": 1e-4, "sizes": [3, 4], "came_later": 1})
    with pytest.raises(
        UserError, match=r"was made with lr 0\.0001, this command says 0\.2\. Give the sweep another name"
    ):
        claim_folder(mine, {"lr": 0.2})
    (mine.folder / "trial.yaml").write_text("")
    with pytest.raises(UserError, match="is not what a sweep writes: delete"):
        claim_folder(mine, {"lr": 1e-4})


def write_sweep(place, seeds=(0, 1), **axes):
    axes = axes or {"data": {"base": BASE, "dydiff": {"rollout": "rollout.yaml"}}}
    machine = dict(option.removeprefix("--").split("=") for option in QUIET)
    write_yaml(place / "sweep.yaml", {
        "name": "tiny", "axes": {**axes, "seed": list(seeds)},
        "options": {"config": "run.yaml", "seed_everything": "{seed}", **machine}})  # fmt: skip


@pytest.fixture
def ray():
    yield
    import ray

    ray.shutdown()


def versions():
    return {path.parent.name: path for path in Path("runs/tiny").glob("*/version_0")}


def test_wrong_settings_stop_a_sweep_before_it_begins(place, capsys):
    write_sweep(place, data={"base": BASE, "wrong": {"rollout.init_args.real_ratio": 2}})
    assert main(["sweep", "--config", "sweep.yaml", "--", "--model.init_args.hiden_sizes", "3"]) == 2
    assert "base-0: Unknown key 'hiden_sizes'" in capsys.readouterr().err
    assert not Path("runs").exists()


def test_a_sweep_of_an_unknown_analysis_is_refused(place, capsys):
    write_sweep(place)
    assert main(["sweep", "--config", "sweep.yaml", "--command", "[analyze, horizon]"]) == 2
    assert "Did you mean horizon_error" in capsys.readouterr().err
    assert main(["sweep", "--config", "sweep.yaml", "--command", "[collect]"]) == 2
    assert "A sweep is over fit or analyze, not 'collect'" in capsys.readouterr().err


def test_a_run_may_move_but_not_change(place, capsys):
    """Another runs_dir or device is the same run; another learning rate is not."""
    write_sweep(place, (0,), data={"base": BASE})
    folder = Path("runs/tiny/base-0")
    folder.mkdir(parents=True)
    (folder / "finished").touch()
    assert main(["sweep", "--config", "sweep.yaml"]) == 0
    Path("runs").rename("moved")
    moved = ["sweep", "--config", "sweep.yaml", "--runs_dir", "moved"]
    assert main([*moved, "--", "--trainer.devices=1"]) == 0
    assert "1 runs, 1 of them finished" in capsys.readouterr().out
    assert main([*moved, "--", "--model.init_args.lr=0.5"]) == 2
    assert "moved/tiny/base-0 was made with model.lr " in capsys.readouterr().err


@pytest.mark.parametrize("changed", ["dataset", "parts"])
def test_a_run_does_not_stand_for_one_on_other_data_or_models(place, capsys, changed):
    write_sweep(place, (0,), data={"dydiff": {"rollout": "rollout.yaml"}})
    folder = Path("runs/tiny/dydiff-0")
    folder.mkdir(parents=True)
    (folder / "finished").touch()
    assert main(["sweep", "--config", "sweep.yaml"]) == 0
    if changed == "dataset":
        with h5py.File("hopper.hdf5", "r+") as file:
            file["rewards"][0] += 1.0
    else:
        path = Path("pretrain/den.yaml")
        path.write_text(path.read_text() + "seed_everything: 3\n")
    assert main(["sweep", "--config", "sweep.yaml"]) == 2
    assert f"was made with {changed} " in capsys.readouterr().err


def test_commands_of_a_sweep_can_be_printed(place, capsys):
    write_sweep(place)
    assert main(["sweep", "--config", "sweep.yaml", "--dry_run", "true", "--", "--trainer.max_epochs=1"]) == 0
    commands = capsys.readouterr().out.splitlines()
    assert len(commands) == 3 + 4 and all(line.startswith("python -m dydiff fit ") for line in commands)
    assert Counter("--trainer.max_epochs=1" in line for line in commands) == {False: 3, True: 4}
    assert not Path("runs").exists()


def test_a_sweep_trains_models_once_and_reports_what_failed(place, capfd, ray):
    single = yaml.safe_load(Path("rollout.yaml").read_text())
    single["init_args"]["synthesizer"] = {"class_path": "dydiff.rollout.Autoregressive", "init_args": {
        "dynamics": "pretrain/dyn.yaml", "reward": "pretrain/rew.yaml", "rollout_length": 6}}  # fmt: skip
    write_yaml(Path("single.yaml"), single)
    write_sweep(place, (0,), data={"base": BASE, "single": {"rollout": "single.yaml"}})
    Path("pretrain/rew.yaml").write_text(Path("pretrain/rew.yaml").read_text().replace("lr: 0.1", "lr: 1.0e+30"))
    assert main(["sweep", "--config", "sweep.yaml"]) == 2
    printed = capfd.readouterr()
    assert "tiny: 2 runs, 0 of them finished, 2 pretrained models to train." in printed.out
    assert "single-0 failed: needs rew-hopper-" in printed.out and "2 of 4 have failed" in printed.err
    assert list(versions()) == ["base-0"] and Path("runs/tiny/base-0/finished").exists()
    before = versions()["base-0"].stat().st_mtime_ns
    write_sweep(place, (0,), data={"base": BASE})
    assert main(["sweep", "--config", "sweep.yaml"]) == 0
    assert "1 runs, 1 of them finished, 0 pretrained models to train." in capfd.readouterr().out
    assert versions()["base-0"].stat().st_mtime_ns == before


@pytest.mark.slow
def test_a_sweep_survives_kills_of_its_runs_and_of_itself(place):
    """Each ends with the weights of a run that nobody killed."""
    import torch

    longer = "--trainer.max_epochs=100"
    write_sweep(place)
    assert main(["fit", "--config", "run.yaml", *QUIET, longer, "--seed_everything=1"]) == 0
    command = [sys.executable, "-m", "dydiff", "sweep", "--config", "sweep.yaml", "--", longer]
    driver = subprocess.Popen(command, start_new_session=True)

    def running():
        """The run's process, if there is one."""
        found = subprocess.run(["pgrep", "-f", "dydiff fit .*tiny/dydiff-1"], capture_output=True, text=True)
        return next(iter(found.stdout.split()), None)

    saved = Path("runs/tiny/dydiff-1/version_0/checkpoints/last.ckpt")
    first = wait_for(lambda: saved.exists() and running(), 300)
    worker = Path(f"/proc/{first}/stat").read_text().rpartition(")")[2].split()[1]
    os.kill(int(worker), signal.SIGKILL)
    wait_for(lambda: running() not in (None, first), 120)
    os.kill(driver.pid, signal.SIGKILL)
    wait_for(lambda: running() is None, 120)
    assert subprocess.run(command).returncode == 0
    assert all((folder.parent / "finished").exists() for folder in versions().values()) and len(versions()) == 4
    mine, alone = (
        torch.load(path, weights_only=True)["state_dict"]
        for path in (saved, "runs/run/version_0/checkpoints/last.ckpt")
    )
    for key in alone:
        torch.testing.assert_close(mine[key], alone[key], rtol=0, atol=0)
