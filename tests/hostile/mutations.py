"""Ways of spoiling good input: trees of plain data, YAML, the bytes of files."""

import copy
import json
import random
import struct
from collections.abc import Iterator
from typing import Any

Tree = Any  # mappings and lists of plain values
Path = tuple[Any, ...]

SCALARS: list[Any] = [
    None, True, False, 0, -1, 1, 7, 2**31, 2**63, 2**64, -(2**63), 10**30, 10**400, 1e-300, 1e308, 0.5,
    float("nan"), float("inf"), -float("inf"), "", " ", "\x00", "a" * 5000, "null", "nan", "1e999", "~",
    "~/", "/dev/zero", "\u202e\x1b[2J\x07", "../../etc/passwd", "[]", "{}", "${HOME}", "os.system", "effect.Thing",
    [], {}, [[]], [None], [1, "a", None], {"a": 1}, {1: 2}, {"class_path": None}, {"init_args": 3},
    {"class_path": "effect.Thing", "init_args": {}},
    {"class_path": "subprocess.Popen", "init_args": {"args": ["touch", "RAN"]}},
]  # fmt: skip
NAMES = ["x", "class_path", "init_args", "dict_kwargs", "config", "resume", "self", "__class__", "", "a.b", 3, None]


def places(tree: Tree, path: Path = ()) -> Iterator[Path]:
    """The paths of all values inside a tree."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield (*path, key)
        yield from places(value, (*path, key))


def _at(tree: Tree, path: Path) -> Tree:
    for key in path:
        tree = tree[key]
    return tree


def spoiled(tree: Tree, rng: random.Random) -> Tree:
    """A copy with one to three values removed, replaced, renamed, nested or repeated."""
    tree = copy.deepcopy(tree)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        paths = list(places(tree))
        if not paths:
            break
        path = rng.choice(paths)
        parent, key = _at(tree, path[:-1]), path[-1]
        how = rng.choice(("delete", "replace", "replace", "replace", "rename", "swap", "nest", "repeat", "add"))
        if how == "delete":
            del parent[key]
        elif how == "replace":
            parent[key] = copy.deepcopy(rng.choice(SCALARS))
        elif how == "swap":
            parent[key] = copy.deepcopy(_at(tree, rng.choice(paths)))
        elif how == "nest":
            for _ in range(rng.choice((1, 2, 30, 300))):
                parent[key] = [parent[key]] if rng.random() < 0.5 else {"a": parent[key]}
        elif how == "repeat":
            many = 3000 if isinstance(parent[key], (int, float, str)) else 30  # so that files stay of a likely size
            parent[key] = [copy.deepcopy(parent[key])] * rng.choice((0, 1, 3, many))
        elif isinstance(parent, dict):
            value = parent.pop(key) if how == "rename" else copy.deepcopy(rng.choice(SCALARS))
            parent[rng.choice(NAMES)] = value
    return tree


def spoiled_bytes(raw: bytes, rng: random.Random) -> bytes:
    """Bytes cut off, removed, doubled, changed or put in front."""
    how = rng.choice(("cut", "change", "change", "remove", "double", "front", "empty"))
    at = rng.randrange(len(raw) + 1)
    if how == "cut":
        return raw[:at]
    if how == "change":
        changed = bytearray(raw)
        for _ in range(min(rng.choice((1, 3, 30)), len(raw))):
            changed[rng.randrange(len(raw))] = rng.randrange(256)
        return bytes(changed)
    if how == "remove":
        return raw[:at] + raw[at + rng.choice((1, 5, 100)) :]
    if how == "double":
        return raw[:at] + raw[:at] + raw[at:]
    return rng.choice((b"\xff\xfe", b"\xef\xbb\xbf", b"\x00", b"[" * 5000, b"\x1b[2J")) + raw if how == "front" else b""


def yaml_bomb(rng: random.Random) -> str:
    """A value in flow style that aliases make grow to 10^8 and more entries."""
    depth, width = rng.choice(((9, 9), (25, 2), (12, 5)))
    listing = rng.random() < 0.5

    def of(items: list[str]) -> str:
        return (
            "[" + ",".join(items) + "]" if listing else "{" + ",".join(f"k{i}: {v}" for i, v in enumerate(items)) + "}"
        )

    value = "&a0 " + of(["x"] * width)
    for i in range(1, depth):
        value = f"&a{i} " + of([value, *[f"*a{i - 1}"] * (width - 1)])
    return value


RAW_YAML = [
    b"", b"\n", b"null\n", b"3\n", b"text\n", b"[1, 2]\n", b"---\n---\n", b"--- a\n--- b\n", b"{", b"[" * 3000,
    b"{a: " * 3000, b"- " * 3000, b"seed: " + b"9" * 5000, b"seed: !!int x\n", b"seed: !!timestamp x\n",
    b"seed: !x 1\n", b"seed: 2001-99-99\n", b"seed: !!binary aGVsbG8=\n", b"seed: !!set {1, 2}\n", b"seed: *nothing\n",
    b"seed: &a [*a]\n", b"<<: [1]\nseed: 1\n", b"? [a]\n: 1\n", b"seed: 1\nseed: 2\n", b"config: c.yaml\n",
    b"\xff\xfe\x00", b"\x80abc: 1\n", b"a: b: c\n", b"\t- x\n", b"family: c.yaml\n", b"meta:\n", b"optimizer: 3\n",
    b"seed: !!python/object/apply:os.system ['touch RAN']\n", b"!!python/object/new:effect.Thing {}\n",
    b"%YAML 9.9\n---\nseed: 1\n", b"seed: '" + b"a" * 2_000_000 + b"'\n", b"k" * 70000 + b": 1\n",
]  # fmt: skip


def spoiled_safetensors(raw: bytes, rng: random.Random) -> bytes:
    """A safetensors file whose header says other things than its data, or whose data is spoiled."""
    size = struct.unpack("<Q", raw[:8])[0]
    header, data = json.loads(raw[8 : 8 + size]), raw[8 + size :]
    how = rng.choice(("bytes", "header", "header", "length", "values", "names"))
    if how == "bytes":
        return spoiled_bytes(raw, rng)
    if how == "length":
        return struct.pack("<Q", rng.choice((0, 1, size - 1, size + 1, 2**40, 2**64 - 1))) + raw[8:]
    if how == "values":
        word = struct.pack("<f", rng.choice((float("nan"), float("inf"), 3e38, 1e-45)))
        at = 4 * rng.randrange(max(len(data) // 4, 1))
        data = data[:at] + word + data[at + 4 :]
    elif how == "names":
        names = [k for k in header if k != "__metadata__"]
        if names:
            header[rng.choice(("x", "", "weights/x", "adam/99/exp_avg", "adam/x/y/z"))] = header.pop(rng.choice(names))
    else:
        header = spoiled(header, rng)
    try:
        text = json.dumps(header).encode()
    except (TypeError, ValueError, RecursionError):
        text = b"{"
    return struct.pack("<Q", len(text)) + text + data
