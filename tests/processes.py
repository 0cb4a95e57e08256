"""What tests of several processes share: starting them, and a look at them."""

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch.distributed as dist
import torch.distributed.nn  # noqa: F401 - loaded while there is a process group, it would keep that one alive for ever

TORCHRUN = (sys.executable, "-m", "torch.distributed.run")


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


def join(rank: int, size: int, port: int) -> None:
    """Become one of the processes of a group, in a process that torch.multiprocessing has started."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=size)


def torchrun(folder: Path, size: int, *arguments: str, **options: Any) -> "subprocess.Popen[str]":
    """Start `size` processes in a folder."""
    return torchrun_with(folder, [f"--nproc-per-node={size}"], *arguments, **options)


def torchrun_with(folder: Path, how: Sequence[str], *arguments: str, **options: Any) -> "subprocess.Popen[str]":
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([*TORCHRUN, *how, *arguments], cwd=folder, env=environment, **streams, **options)


def children_of(process: int) -> list[int]:
    """The processes that a process has started; Linux."""
    threads = Path(f"/proc/{process}/task").iterdir()
    return [int(child) for thread in threads for child in (thread / "children").read_text().split()]
