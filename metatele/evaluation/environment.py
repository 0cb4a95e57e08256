"""What the numbers of an evaluation were made with: versions, commit, hardware."""

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import scipy
import torch

from metatele.version import __version__


def environment(device: str) -> dict[str, Any]:
    """Versions, the git commit of a checkout (None for an installed package), and the hardware."""
    return {
        "versions": versions(),
        "commit": git_commit(),
        "hardware": hardware(device),
    }


def hardware(device: str) -> dict[str, Any]:
    """What the wall-clock depends on, and the rounding of numbers."""
    return {
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else device,
    }


def versions() -> dict[str, str]:
    """The versions that the numbers depend on."""
    return {
        "metatele": __version__,
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "python": platform.python_version(),
    }


def git_commit() -> str | None:
    """The commit that metatele's own checkout is at, with "+" where files differ from it."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    try:
        commit, changes = (
            subprocess.run(
                ["git", "-C", str(root), *words], capture_output=True, text=True, timeout=10, check=True
            ).stdout
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return commit.strip() + ("+" if changes.strip() else "")
