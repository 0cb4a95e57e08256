"""Where to compute."""

import torch

from metatele.errors import ConfigError


def check_device(name: str) -> torch.device:
    """The device called `name`. Raises: ConfigError if it cannot be used here."""
    try:
        tensor = torch.zeros(1, device=name)
        tensor.item()  # the meta device has no numbers
        return tensor.device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"the device {name!r} cannot be used: {reason}; use cpu or cuda") from error
