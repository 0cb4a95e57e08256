"""How often torchrun has started the processes, which all of them must know the same."""

import os
import secrets
import time
from datetime import timedelta

import torch.distributed as dist

MOMENT = 0.05  # seconds

_known = list[int]()  # what this process has been told


def round_of(store: dist.Store, patience: timedelta) -> int:
    """How often torchrun has started these processes anew, the same number in all of them.

    torchrun's own number will do on one machine. Of several machines, each counts the failures of its own processes
    only. There the first process counts how often it has come here, and hands the number to the others; those that were
    here before them, and are gone, have left questions, but cannot confirm an answer.

    Args:
        store: that all processes see, and that outlives them.
        patience: how long to wait for the others, as long as the store does.
    Raises: RuntimeError if one does not come.
    """
    if os.environ.get("GROUP_WORLD_SIZE", "1") == "1":
        return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
    if not _known:
        _known.append(_agreed(store, int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), patience))
    return _known[0]


def _agreed(store: dist.Store, rank: int, size: int, patience: timedelta) -> int:
    if rank > 0:
        question = secrets.token_hex(8)
        store.set(f"question of {rank}", question)
        answer = int(store.get(f"answer to {question}"))
        store.add(f"confirmed {answer}", 1)
        return answer
    answer, until = store.add("rounds", 1) - 1, time.monotonic() + patience.total_seconds()
    while store.add(f"confirmed {answer}", 0) < size - 1:
        for other in range(1, size):
            if store.check([f"question of {other}"]):
                store.set(f"answer to {store.get(f'question of {other}').decode()}", str(answer))
        if time.monotonic() > until:
            raise RuntimeError(f"not all of {size} processes have started")
        time.sleep(MOMENT)
    return answer
