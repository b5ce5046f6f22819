"""The structure: data flows one way, and extension needs no edit elsewhere."""

import ast
from pathlib import Path

import pytest
from conftest import ROOT

# Each room may import itself, the shared errors and files, and the rooms named here.
MAY_IMPORT = {
    "errors": set(),
    "files": set(),
    "output": {"files"},
    "ranks": set(),
    "settings": set(),
    "seeds": {"ranks"},
    "checkpoints": set(),
    "data": set(),
    "envs": {"data"},
    "models": {"data"},
    "rollout": {"data", "envs", "models"},
    "agents": {"data", "envs", "models"},
    "analysis": {"data", "envs", "models", "rollout", "agents"},
    "collect": {"data", "envs"},
    "callbacks": {"data", "models", "rollout", "agents"},
}

# What every room may use: they know nothing of data, models or agents.
TOOLS = {"errors", "files", "output", "ranks", "seeds", "checkpoints"}


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
        wrong = set(imported_rooms(path)) - MAY_IMPORT[room] - {room} - TOOLS
        assert not wrong, f"{path.relative_to(ROOT)} imports {wrong}"


def test_dydiff_never_imports_callbacks():
    for path in (ROOT / "dydiff").rglob("*.py"):
        assert "callbacks" not in set(imported_rooms(path)), path


def test_every_file_reads_in_one_sitting():
    for folder in ("dydiff", "callbacks"):
        for path in Path(ROOT / folder).rglob("*.py"):
            assert len(path.read_text().splitlines()) <= 330, path
