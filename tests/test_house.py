"""The structure: data flows one way, and extension needs no edit elsewhere."""

import ast
from pathlib import Path

import pytest
from conftest import ROOT

# Each room may import itself and the rooms named here; what stands in the root of dydiff is only its entry.
MAY_IMPORT = {
    "utils": set(),
    "data": {"utils"},
    "envs": {"utils", "data"},
    "models": {"utils", "data"},
    "rollout": {"utils", "data", "envs", "models"},
    "agents": {"utils", "data", "envs", "models"},
    "run": {"utils", "data", "models", "rollout"},
    "collect": {"utils", "data", "envs"},
    "analysis": {"utils", "data", "envs", "models", "rollout", "agents"},
    "sweep": {"utils", "run"},
    "report": {"utils", "run", "data"},
    "testing": {"utils", "data", "rollout", "agents"},
    "callbacks": {"utils", "data", "models", "rollout", "agents"},
    "cli": {"utils", "data", "envs", "models", "rollout", "agents", "run", "analysis", "collect", "sweep", "report"},
}


def imported_rooms(path):
    for node in ast.walk(ast.parse(path.read_text())):
        modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        if modules == ["dydiff"]:
            modules = [f"dydiff.{alias.name}" for alias in node.names if alias.name != "__version__"]
        modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        for module in modules:
            root, *rest = module.split(".")
            if root == "dydiff" and rest:
                yield rest[0]
            elif root == "callbacks":
                yield "callbacks"


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_data_flows_one_way(room):
    folder = ROOT / room if room == "callbacks" else ROOT / "dydiff" / room
    files = folder.rglob("*.py") if folder.is_dir() else [folder.with_suffix(".py")]
    for path in files:
        wrong = set(imported_rooms(path)) - MAY_IMPORT[room] - {room}
        assert not wrong, f"{path.relative_to(ROOT)} imports {wrong}"


def test_every_room_has_its_line():
    rooms = {path.name for path in (ROOT / "dydiff").iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert rooms | {"callbacks"} == set(MAY_IMPORT)
    assert {path.name for path in (ROOT / "dydiff").glob("*.py")} == {"__init__.py", "__main__.py"}


def test_dydiff_never_imports_callbacks():
    for path in (ROOT / "dydiff").rglob("*.py"):
        assert "callbacks" not in set(imported_rooms(path)), path


def test_every_file_reads_in_one_sitting():
    for folder in ("dydiff", "callbacks"):
        for path in Path(ROOT / folder).rglob("*.py"):
            assert len(path.read_text().splitlines()) <= 330, path
