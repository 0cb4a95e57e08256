"""YAML that somebody else has written."""

import pytest

from metatele import ConfigError
from metatele.errors import LONGEST_MESSAGE, printable
from metatele.support.plain_yaml import MOST_CHARACTERS, check_yaml, read_yaml


def bomb(depth: int, width: int = 9) -> str:
    text = "&a0 [" + ",".join(["l"] * width) + "]"
    for i in range(1, depth):
        text = f"&a{i} [" + ",".join([text, *[f"*a{i - 1}"] * (width - 1)]) + "]"
    return text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("meta:\n  tasks: 3\nunroll: {}\nmeta:\n  lr: 1\n", "line 4: the key 'meta' is there already, in line 1"),
        ("a: {b: 1, c: {d: 1, d: 2}}", "the key 'd' is there already"),
        ("- {a: 1, 'a': 2}", "the key 'a'"),
        (bomb(6), "more than 20000 values"),
        (bomb(40), "more than 20000 values"),
        ("&a [*a]", "holds itself"),
        ("a: &x {b: *x}", "holds itself"),
        ("[" * 60 + "]" * 60, "deeper than 50"),
        ("[" * 5000, "deeper than 50"),
        ("x" * (MOST_CHARACTERS + 1), "too long"),
        ("!!int x", "not what its tag says"),
        ("!!timestamp x", "not what its tag says"),
        ("9" * 5000, "not what its tag says"),
    ],
)
def test_bad_yaml_is_refused(text, message):
    with pytest.raises(ConfigError, match=message) as refused:
        read_yaml(text)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "text", ["", "a: 1", "base: &b {x: 1}\nmine: {<<: *b, x: 2}", "a: &x [1, 2]\nb: *x\nc: *x", "1: a\n'2': b"]
)
def test_good_yaml_is_taken(text):
    check_yaml(text)
    read_yaml(text)


def test_messages_are_short_and_plain():
    assert printable("it's fine: ä") == "it's fine: ä"
    assert printable("a\x1b[2Jb\x07\nc") == "a\\x1b[2Jb\\x07 c"
    long = printable("begin" + "x" * 10**6 + "end")
    assert len(long) <= LONGEST_MESSAGE
    assert long.startswith("begin")
    assert long.endswith("end")
