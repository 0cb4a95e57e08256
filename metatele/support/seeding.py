"""Seeds for every random draw: independent streams named by words and numbers."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def derive_seed(*names: object) -> int:
    """A 63-bit seed that depends on all names, equal for equal names on every machine."""
    text = "/".join(map(str, names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(*names: object) -> torch.Generator:
    """A CPU generator seeded with `derive_seed(*names)`."""
    return torch.Generator().manual_seed(derive_seed(*names))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Run code that draws from torch's global CPU generator (`reset_parameters`) under an explicit
    seed, and leave that generator, and those of other devices, as they were."""
    stream = torch.default_generator
    before = stream.get_state()
    stream.manual_seed(seed)
    try:
        yield
    finally:
        stream.set_state(before)
