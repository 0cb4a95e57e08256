"""What one process has compiled is found by the next."""

import gc
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from metatele.unroll.compiled import inductor

# Plays a window for the tasks of each seed; prints the bits of the meta-gradients, and what was found in the cache.
PROCESS = """
import hashlib, json, sys
import torch
from torch._dynamo.utils import counters
from metatele import InnerOptimizer, NeuronTeleport, TensorUpdate, sample_meta_batch
from metatele.testing import ExampleFamily
from metatele.unroll.compiled import CompiledUnroll, Programs

inner, programs, bits = InnerOptimizer(TensorUpdate(4), NeuronTeleport(3)), Programs(), []
for seed in map(int, sys.argv[1:]):
    batch = sample_meta_batch(ExampleFamily(), "train", range(3), seed).to(torch.float32)
    inner.bind(batch.network, batch.params)
    inner.initialise(seed)
    inner.zero_grad()
    play = CompiledUnroll(programs, inner, batch, 6, True)
    play.gradient(play.start(), 3, lambda window: window.meta_losses.mean())
    assert not programs.refused
    numbers = [p.grad.numpy().tobytes() for p in inner.parameters() if p.grad is not None]
    assert numbers
    bits.append(hashlib.sha256(b"".join(numbers)).hexdigest())
found = {kind: counters["inductor"][f"fxgraph_cache_{kind}"] for kind in ("hit", "miss", "bypass")}
print(json.dumps({"bits": bits, **found}))
"""


def played(folder: Path, *seeds: int) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", PROCESS, *map(str, seeds)],
        env={**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(folder), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_a_later_process_compiles_nothing(tmp_path: Path) -> None:
    """Whatever the tasks and the learned weights: their numbers are no part of what is compiled."""
    first, later = played(tmp_path, 0), played(tmp_path, 1, 0)
    assert (first["hit"], first["miss"], first["bypass"]) == (0, 2, 0)  # forward and backward
    assert (later["hit"], later["miss"], later["bypass"]) == (2, 0, 0)
    assert later["bits"][1] == first["bits"][0]


@pytest.mark.parametrize(("mode", "own"), [(0o755, True), (0o775, True), (0o777, False)])
def test_nothing_is_taken_from_a_folder_that_others_write_to(
    mode: int, own: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    tmp_path.chmod(mode)
    assert inductor.has_cache_of_its_own() is own
    monkeypatch.setattr("os.getuid", lambda: tmp_path.stat().st_uid + 1)
    assert not inductor.has_cache_of_its_own()


@pytest.mark.parametrize("enabled", [True, False])
def test_the_garbage_collector_is_left_as_it_was(enabled: bool) -> None:
    was = gc.isenabled()
    (gc.enable if enabled else gc.disable)()
    try:
        with inductor.compiling():
            assert not gc.isenabled()
        assert gc.isenabled() is enabled
    finally:
        (gc.enable if was else gc.disable)()
        gc.unfreeze()
