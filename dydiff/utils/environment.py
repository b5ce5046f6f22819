"""What a run is computed with: versions and hardware, for the reader of its numbers."""

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

_ROOT = Path(__file__).parents[2]
_PACKAGES = ("dydiff", "torch", "lightning", "gymnasium", "mujoco", "numpy")


def computed_with() -> dict[str, str]:
    """Versions of the project and of the packages that decide numbers, the git commit, system and processor."""
    found = {"commit": _commit(), "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    found |= {"system": f"{platform.system()} {platform.machine()}", "processor": _processor()}
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return {name: value for name, value in found.items() if value}


def _commit() -> str:
    """The commit of the checkout that the package is in, with a ``+`` if files have changed since; empty elsewhere."""
    if not (_ROOT / ".git").exists():
        return ""
    command = ["git", "-C", str(_ROOT), "describe", "--always", "--abbrev=10", "--exclude=*", "--dirty=+"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def _processor() -> str:
    cores = f"{os.cpu_count()} cores"
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.processor()}, {cores}".lstrip(", ")
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {cores}" if names else cores
