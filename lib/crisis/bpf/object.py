# SPDX-License-Identifier: GPL-2.0-or-later
"""A compiled program: instructions, definitions of maps, layouts of records, BTF ids.

It is packed into bytes for the cache, and for the way from the compiler's process.
"""

from __future__ import annotations

from binascii import crc32

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["MAGIC", "Object", "pack", "unpack"]

MAGIC = b"crisis-tools object 6\n"
_CHECKSUM = 4  # bytes


class Object:
    """A compiled program as the loader wants it.

    name; unusable: why the program cannot run on this kernel, or None; compiler: what compiled it,
    such as "bcc 0.26.0"; points, probes: as in Source;
    maps: [name, type, key size, value size, max entries, flags, key, value], where the last two are
    the name of a struct, or the layout of a number, or "-" for what records cannot have;
    layouts: {name of a struct: its layout, as text for record.Layout};
    functions: {name: (instructions, [(byte offset, map index)], [(byte offset, parameter name)])};
    ids: {"kind/target": BTF id or None}; constants: {name: value}; counters: names.
    """

    def __init__(self, meta: dict[str, Any], code: bytes) -> None:
        self.name, self.unusable = meta["name"], meta["unusable"]
        self.compiler: str = meta.get("compiler", "")
        self.points, self.probes = meta["points"], meta["probes"]
        self.maps, self.layouts, self.ids = meta["maps"], meta["layouts"], meta["ids"]
        self.constants: dict[str, int] = meta["constants"]
        self.counters: list[str] = meta["counters"]
        self.functions: dict[str, tuple[bytes, list[tuple[int, int]], list[tuple[int, str]]]] = {}
        at = 0
        for name, length, maps, params in meta["functions"]:
            self.functions[name] = code[at : at + length], maps, params
            at += length
        if at != len(code):
            raise ValueError("instructions are incomplete")


def pack(meta: dict[str, Any], code: bytes) -> bytes:
    """The bytes of an object.

    Magic, checksum, then a line for each fact and, after an empty one, the instructions.  Lines of
    tab-separated fields, not JSON, whose module costs a warm start a millisecond.
    """
    lines: list[tuple[Any, ...]] = [("name", meta["name"]), ("unusable", meta["unusable"] or "")]
    lines.append(("compiler", meta["compiler"]))
    lines += [("point", *point) for point in meta["points"]] + [
        ("probe", probe) for probe in meta["probes"]
    ]
    lines += [("map", *entry) for entry in meta["maps"]]
    lines += [("layout", *item) for item in meta["layouts"].items()]
    for name, length, maps, params in meta["functions"]:
        lines.append(("function", name, length))
        lines += [("at_map", at, index) for at, index in maps]
        lines += [("at_param", at, param) for at, param in params]
    lines += [
        ("id", target, "" if number is None else number) for target, number in meta["ids"].items()
    ]
    lines += [("constant", name, value) for name, value in meta["constants"].items()]
    lines += [("counter", name) for name in meta["counters"]]
    head = "".join(
        "\t".join(" ".join(str(field).split()) for field in line) + "\n" for line in lines
    )
    body = head.encode() + b"\n" + code
    return MAGIC + _checksum(body) + body


def _checksum(body: bytes) -> bytes:
    """Against damage by accident; who may write to the cache is checked before it is read."""
    return crc32(body).to_bytes(_CHECKSUM, "little")


def unpack(data: bytes) -> Object:
    """The Object in the bytes that `pack` made.  Raises ValueError for anything else."""
    start = len(MAGIC) + _CHECKSUM
    body = data[start:]
    if data[: len(MAGIC)] != MAGIC:
        raise ValueError("not an object of this version")
    if _checksum(body) != data[len(MAGIC) : start]:
        raise ValueError("the checksum is wrong")
    head, _, code = body.partition(b"\n\n")
    meta: dict[str, Any] = {
        "points": [],
        "probes": [],
        "maps": [],
        "layouts": {},
        "functions": [],
        "ids": {},
        "constants": {},
        "counters": [],
    }
    try:
        for line in head.decode().split("\n"):
            _take(meta, *line.split("\t"))
        return Object(meta, code)
    except (KeyError, IndexError) as exc:
        raise ValueError(f"the metadata is not what was expected: {exc!r}") from None


def _take(meta: dict[str, Any], word: str, *fields: str) -> None:
    """Put the fact of one line into `meta`."""
    if word in ("name", "unusable"):
        meta[word] = fields[0] or None
    elif word == "compiler":
        meta[word] = fields[0]
    elif word == "point":
        meta["points"].append(list(fields))
    elif word in ("probe", "counter"):
        meta[word + "s"].append(fields[0])
    elif word == "map":
        meta["maps"].append([fields[0], *map(int, fields[1:6]), *fields[6:]])
    elif word == "layout":
        meta["layouts"][fields[0]] = fields[1]
    elif word == "function":
        meta["functions"].append((fields[0], int(fields[1]), [], []))
    elif word == "at_map":
        meta["functions"][-1][2].append((int(fields[0]), int(fields[1])))
    elif word == "at_param":
        meta["functions"][-1][3].append((int(fields[0]), fields[1]))
    elif word == "id":
        meta["ids"][fields[0]] = int(fields[1]) if fields[1] else None
    elif word == "constant":
        meta["constants"][fields[0]] = int(fields[1])
