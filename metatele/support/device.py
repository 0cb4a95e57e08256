"""Where to compute, and how precisely."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from metatele.errors import ConfigError
from metatele.support.messages import first_line


def check_device(name: str) -> torch.device:
    """The device called `name`. Raises: ConfigError if it cannot be used here."""
    try:
        tensor = torch.zeros(1, device=name)
        tensor.item()  # the meta device has no numbers
        return tensor.device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(f"the device {name!r} cannot be used: {first_line(error)}; use cpu or cuda") from error


@contextmanager
def multiplying(tf32: bool) -> Iterator[None]:
    """Inside, GPUs multiply float32 matrices in TF32 (with mantissas of 10 bits) if `tf32`, otherwise as before."""
    if not tf32:
        yield
        return
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_tf32
    matmul.allow_tf32 = True
    try:
        yield
    finally:
        matmul.allow_tf32 = before
