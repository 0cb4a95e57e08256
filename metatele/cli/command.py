"""The interface of every command of `metatele`: its arguments, and what it does with them."""

import abc

from jsonargparse import ArgumentParser, Namespace


class Command(abc.ABC):
    """A command; `metatele.cli.main` lists them.

    Args:
        name: what a user types after `metatele`.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    @abc.abstractmethod
    def make_parser(self) -> ArgumentParser:
        """The command's arguments."""

    @abc.abstractmethod
    def run(self, parser: ArgumentParser, config: Namespace) -> int:
        """Run it with what `parser` has read.

        Returns: the exit code.
        Raises: MetateleError for bad input, before anything is written.
        """

    def prepare(self, arguments: list[str]) -> list[str]:
        """The arguments to parse instead of those that were typed; by default the same ones."""
        return arguments
