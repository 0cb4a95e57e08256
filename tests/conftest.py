"""Settings and fixtures of all tests."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings

from metatele import MetaBatch, sample_meta_batch
from metatele.testing import ExampleFamily

ROOT = Path(__file__).parents[1]
MNIST = ROOT.parent / "shared" / "data" / "mnist"  # real images, where they are

os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the commands that tests start: several run at a time
torch.set_num_threads(1)
settings.register_profile("metatele", derandomize=True, deadline=None, max_examples=20, print_blob=True)
settings.load_profile("metatele")


@pytest.fixture
def make_batch() -> Callable[..., MetaBatch]:
    """Draw tasks of `ExampleFamily` in float64: make_batch(tasks=2, seed=0, **family arguments)."""

    def make(tasks: int = 2, seed: int = 0, **arguments: Any) -> MetaBatch:
        return sample_meta_batch(ExampleFamily(**arguments), "train", range(tasks), seed).to(torch.float64)

    return make


def heed_ctrl_c() -> None:
    """For a command that a test starts: whoever runs the tests in the background of a shell has it ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def need_learn2learn(name: str) -> None:
    """Skip a test of something that is made of learn2learn, told by its name, where that is not installed."""
    if any(word in name for word in ("MetaSGD", "LearnableTransform", "FewShot", "learn2learn", "few_shot")):
        pytest.importorskip("learn2learn", reason="it is made of learn2learn")


def concrete_subclasses(base: type) -> set[type]:
    """All subclasses of `base` in metatele that can be made, however far down."""
    found = set()
    for sub in base.__subclasses__():
        if not getattr(sub, "__abstractmethods__", None) and sub.__module__.split(".")[0] == "metatele":
            found.add(sub)
        found |= concrete_subclasses(sub)
    return found
