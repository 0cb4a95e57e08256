"""Metatele's command line in forked children of one warm process: a fork takes milliseconds, a start takes seconds."""

import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass

ADDRESS_SPACE = 12 * 2**30  # bytes that a child may ask for, so that a bomb hits it and not the machine


def warm() -> None:
    """Import what the commands need before the first fork."""
    import matplotlib.backends.backend_pdf  # noqa: F401
    import torch
    import torch._dynamo  # the first optimizer of torch.optim takes seconds for it
    import torch.utils.tensorboard

    import metatele.cli.meta_train_command
    import metatele.experiments
    import metatele.report  # noqa: F401

    torch.set_num_threads(1)


@dataclass(frozen=True)
class Ended:
    """How a child ended.

    Attributes:
        code: its exit code; minus the signal that ended it; None if it had to be killed for taking too long.
        out, err: what it wrote.
        seconds: of processor time.
        memory: the most bytes that it held, those of the process that it was forked from included.
    """

    code: int | None
    out: str
    err: str
    seconds: float
    memory: int


class Child:
    """A command line that runs in a forked child, in the present working directory.

    Args:
        arguments: of the command line.
        before: called in the child before it begins.
    """

    def __init__(self, arguments: Sequence[str], before: Callable[[], None] = lambda: None) -> None:
        self._streams = [tempfile.TemporaryFile() for _ in range(2)]  # noqa: SIM115 - closed in wait()
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            self._run(arguments, before)

    def _run(self, arguments: Sequence[str], before: Callable[[], None]) -> None:
        code = 99
        try:
            os.setpgid(0, 0)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            for number, stream in enumerate(self._streams, 1):
                os.dup2(stream.fileno(), number)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
            from metatele.cli import main

            before()
            code = main(arguments)
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 99
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def kill(self, number: int) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)  # it is our own until it has been waited for, even if it has ended

    def wait(self, seconds: float) -> Ended:
        """How it ended; after some seconds of wall-clock time it is killed."""
        end, pause = time.monotonic() + seconds, 0.001
        late = False
        while True:
            done, status, usage = os.wait4(self.pid, 0 if late else os.WNOHANG)
            if done:
                break
            if time.monotonic() > end:
                late = True
                os.killpg(self.pid, signal.SIGKILL)
            time.sleep(pause)
            pause = min(1.3 * pause, 0.05)
        texts = []
        for stream in self._streams:
            stream.seek(0)
            texts.append(stream.read().decode(errors="replace"))
            stream.close()
        code = None if late else os.waitstatus_to_exitcode(status)
        return Ended(code, *texts, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)
