"""Reading YAML that somebody else may have written: plain data of a bounded size, each key once."""

from collections.abc import Hashable
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from metatele.errors import ConfigError

MOST_CHARACTERS = 2**20
MOST_NODES = 20_000  # values, those that aliases stand for counted each time
MOST_DEPTH = 50


def read_yaml(text: str) -> Any:
    """The plain data in a text. Raises: what `check_yaml` raises."""
    check_yaml(text)
    try:
        return yaml.safe_load(text)
    except (ValueError, AttributeError, TypeError, OverflowError) as error:  # a tag that its value does not fit
        raise ConfigError(f"a value is not what its tag says: {error}") from error


def check_yaml(text: str) -> None:
    """Look through a text before its values are made.

    Raises: ConfigError, with the line, for a key that a mapping has twice; for data that are too many, too deep, or
        hold themselves; yaml.YAMLError for what is no YAML.
    """
    if len(text) > MOST_CHARACTERS:
        raise ConfigError(f"YAML of {len(text)} characters is too long; at most {MOST_CHARACTERS}")
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except RecursionError as error:
        raise ConfigError(f"YAML is nested deeper than {MOST_DEPTH} levels") from error
    if root is not None:
        _count(root, {}, 0)


def _count(node: Node, known: dict[int, int], depth: int) -> int:
    """How many values a node stands for."""
    line = node.start_mark.line + 1
    if depth > MOST_DEPTH:
        raise ConfigError(f"line {line}: YAML is nested deeper than {MOST_DEPTH} levels")
    if id(node) in known:
        if known[id(node)] == 0:
            raise ConfigError(f"line {line}: YAML holds itself, by an alias")
        return known[id(node)]
    known[id(node)] = 0
    count = 1
    if isinstance(node, MappingNode):
        _check_keys(node)
        inside = [part for pair in node.value for part in pair]
    else:
        inside = node.value if isinstance(node, SequenceNode) else []
    for part in inside:
        count += _count(part, known, depth + 1)
        if count > MOST_NODES:
            raise ConfigError(f"line {line}: YAML of more than {MOST_NODES} values (aliases counted each time)")
    known[id(node)] = count
    return count


def _check_keys(node: MappingNode) -> None:
    """Raises: ConfigError for a key that is there twice."""
    seen: dict[Hashable, int] = {}
    for key, _ in node.value:
        if isinstance(key, ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
            line = key.start_mark.line + 1
            if key.value in seen:
                raise ConfigError(f"line {line}: the key {key.value!r} is there already, in line {seen[key.value]}")
            seen[key.value] = line
