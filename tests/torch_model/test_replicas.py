"""Replicas of data-parallel training teleport together."""

import os
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.distributed.nn  # loaded while there is a process group, it would keep that one alive beyond its end
import torch.multiprocessing as mp
from torch import nn
from torch.nn.functional import mse_loss

import metatele
from metatele import Balance, RandomTeleport, Teleport

BY: dict[str, Teleport | None] = {"optimised": None, "balance": Balance(), "random": RandomTeleport()}


def work(rank: int, port: int, by: str, equal: bool, folder: str) -> None:
    """Train on rows of one's own, with a teleport in the middle; write the end."""
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=2)
    torch.manual_seed(0 if equal else rank)
    net = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 1))
    trained: nn.Module = nn.parallel.DistributedDataParallel(net) if equal else net
    optimizer = torch.optim.Adam(net.parameters(), lr=0.05)
    mine = torch.Generator().manual_seed(rank)  # as a DistributedSampler would
    told: Any = None
    for step in range(6):
        x = torch.randn(16, 5, generator=mine)
        if step == 3:
            told = metatele.teleport(net, (x, x[:, :1]), mse_loss, optimizer=optimizer, by=BY[by], seed=rank)
        optimizer.zero_grad()
        mse_loss(trained(x), x[:, :1]).backward()
        optimizer.step()
    state = [v for s in optimizer.state_dict()["state"].values() for v in s.values()]
    end = torch.cat([t.detach().flatten() for t in (*net.parameters(), *state)])
    torch.save((end, float(told.distance)), Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


def ends(by: str, equal: bool, folder: Path) -> list[Any]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(work, (port, by, equal, str(folder)), nprocs=2)  # type: ignore[no-untyped-call]
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("by", BY)
def test_replicas_stay_one_model(by: str, tmp_path: Path) -> None:
    (first, moved), (second, too) = ends(by, True, tmp_path)
    assert moved > 0
    assert too > 0
    torch.testing.assert_close(second, first, rtol=1e-6, atol=1e-7)


def test_models_of_their_own_go_their_own_ways(tmp_path: Path) -> None:
    (first, moved), (second, too) = ends("balance", False, tmp_path)
    assert moved > 0
    assert too > 0
    assert moved != too
    assert not torch.allclose(first, second)
