# SPDX-License-Identifier: GPL-2.0-or-later
"""BTF, the kernel's own description of its types.

Follows Documentation/bpf/btf.rst and include/uapi/linux/btf.h.
"""

from __future__ import annotations

import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

__all__ = ["Btf", "VMLINUX"]

VMLINUX = "/sys/kernel/btf/vmlinux"

(
    INT,
    PTR,
    ARRAY,
    STRUCT,
    UNION,
    ENUM,
    FWD,
    TYPEDEF,
    VOLATILE,
    CONST,
    RESTRICT,
    FUNC,
    FUNC_PROTO,
    VAR,
    DATASEC,
    FLOAT,
    DECL_TAG,
    TYPE_TAG,
    ENUM64,
) = range(1, 20)
# Bytes that follow the 12 of struct btf_type: (fixed, per vlen)
_EXTRA = {
    INT: (4, 0),
    ARRAY: (12, 0),
    STRUCT: (0, 12),
    UNION: (0, 12),
    ENUM: (0, 8),
    FUNC_PROTO: (0, 8),
    VAR: (4, 0),
    DATASEC: (0, 12),
    DECL_TAG: (4, 0),
    ENUM64: (0, 12),
}
_MODIFIERS = (VOLATILE, CONST, RESTRICT, TYPE_TAG)
_TYPE = struct.Struct("=III")


class Btf:
    """A BTF blob, parsed lazily: one pass finds where each type starts.

    data: the bytes of a BTF section or of /sys/kernel/btf/vmlinux, native byte order.
    Raises ValueError when it is not BTF.
    """

    def __init__(self, data: bytes) -> None:
        try:
            magic, version, _, hdr_len, type_off, type_len, str_off, str_len = struct.unpack_from(
                "=HBBIIIII", data
            )
        except struct.error:
            raise ValueError("truncated BTF header") from None
        if magic != 0xEB9F or version != 1 or hdr_len + str_off + str_len > len(data):
            raise ValueError("not BTF version 1 in this machine's byte order")
        self._data = data
        self._strings = hdr_len + str_off
        self._offsets: dict[bytes, int] | None = None
        self._values: dict[int, int] | None = None
        self._at = [0]
        # kind -> {string offset: first id}
        named: dict[int, dict[int, int]]
        self._ids = named = {kind: {} for kind in (STRUCT, UNION, ENUM, ENUM64, TYPEDEF, FUNC)}
        self.enums: list[int] = []  # ids of all enumerations
        extra = [_EXTRA.get(kind, (0, 0)) for kind in range(32)]
        unpack, at = _TYPE.unpack_from, self._at.append
        position, end, number = hdr_len + type_off, hdr_len + type_off + type_len, 1
        while position < end:
            name, info, _ = unpack(data, position)
            kind = info >> 24 & 31
            at(position)
            if kind in named:
                if name:
                    named[kind].setdefault(name, number)
                if kind in (ENUM, ENUM64):
                    self.enums.append(number)
            fixed, each = extra[kind]
            position += 12 + fixed + each * (info & 0xFFFF)
            number += 1

    def string(self, offset: int) -> str:
        """The string at an offset of the string section."""
        start = self._strings + offset
        return self._data[start : self._data.index(0, start)].decode()

    def string_offset(self, text: str) -> int | None:
        """The offset of a string in the string section, or None."""
        return self._string_offsets().get(text.encode())

    def _string_offsets(self) -> dict[bytes, int]:
        if self._offsets is None:
            self._offsets, offset = {}, 0
            for item in self._data[self._strings :].split(b"\0"):
                self._offsets[item] = offset
                offset += len(item) + 1
        return self._offsets

    def find(self, name: str, *kinds: int) -> int | None:
        """The id of the first type of that name and one of these kinds, or None."""
        offset = self.string_offset(name)  # pahole and the kernel's build deduplicate strings
        if offset is not None:
            for kind in kinds:
                if offset in self._ids[kind]:
                    return self._ids[kind][offset]
        return None

    def type(self, number: int) -> tuple[str, int, int, int, int, int]:
        """(name, kind, vlen, kind_flag, size or type id, offset of what follows)."""
        if not number:
            return "", 0, 0, 0, 0, 0
        position = self._at[number]
        name, info, size = _TYPE.unpack_from(self._data, position)
        return (
            self.string(name) if name else "",
            info >> 24 & 31,
            info & 0xFFFF,
            info >> 31,
            size,
            position + 12,
        )

    def words(self, position: int, count: int) -> tuple[int, ...]:
        """`count` unsigned 32-bit words at a position that type() returned."""
        return struct.unpack_from(f"={count}I", self._data, position)

    def skip(self, number: int, also: Collection[int] = ()) -> int:
        """The id behind const, volatile, restrict and type tags (and the kinds in `also`)."""
        while True:
            _, kind, _, _, target, _ = self.type(number)
            if kind not in _MODIFIERS and kind not in also:
                return number
            number = target

    def members(self, number: int, base: int = 0) -> Iterator[tuple[str, int, int, int]]:
        """(name, type id, bit offset, bit-field width or 0), anonymous members expanded."""
        _, _, vlen, flag, _, position = self.type(number)
        for i in range(vlen):
            name, target, offset = self.words(position + 12 * i, 3)
            width = 0
            if flag:
                width, offset = offset >> 24, offset & 0xFFFFFF
            if name:
                yield self.string(name), target, base + offset, width
            else:
                yield from self.members(self.skip(target), base + offset)

    def has(self, path: str) -> bool:
        """True when "struct_name.member" exists, or a type, function or constant of a bare name."""
        name, _, member = path.partition(".")
        if not member:
            return self.find(
                name, STRUCT, UNION, ENUM, ENUM64, TYPEDEF, FUNC
            ) is not None or name in self.constants([name])
        number = self.find(name, STRUCT, UNION)
        return number is not None and any(m[0] == member for m in self.members(number))

    def constants(self, names: Iterable[str]) -> dict[str, int]:
        """{name: value} of the enumeration constants in `names` that exist.

        "PREFIX*" stands for all that begin so.
        """
        names = list(names)
        prefixes = tuple(name[:-1].encode() for name in names if name.endswith("*"))
        if prefixes:
            names = [name for name in names if not name.endswith("*")]
            names += [text.decode() for text in self._string_offsets() if text.startswith(prefixes)]
        if self._values is None:
            self._values = {}
            for number in reversed(self.enums):  # of two constants of a name, the first counts
                self._values.update(self._enumerators(number))
        found = {}
        for name in names:
            value = self._values.get(self._string_offsets().get(name.encode(), -1))
            if value is not None:
                found[name] = value
        return found

    def enumerators(self, number: int) -> list[tuple[str, int]]:
        """[(name, value)] of an enumeration."""
        return [(self.string(offset), value) for offset, value in self._enumerators(number)]

    def _enumerators(self, number: int) -> list[tuple[int, int]]:
        _, kind, vlen, signed, _, position = self.type(number)
        if kind == ENUM:
            return list(
                struct.iter_unpack(
                    "=Ii" if signed else "=II", self._data[position : position + 8 * vlen]
                )
            )
        return [
            (offset, high << 32 | low)
            for offset, low, high in struct.iter_unpack(
                "=IIi" if signed else "=III", self._data[position : position + 12 * vlen]
            )
        ]

    def argument(self, tracepoint: str, name: str) -> int | None:
        """The position of a tracepoint's argument of that name, or None.

        It is that of the kernel's own caller of the tracepoint's probes.
        """
        number = self.find("__traceiter_" + tracepoint, FUNC)
        if number is not None:
            _, _, vlen, _, _, position = self.type(self.type(number)[4])
            for i in range(1, vlen):  # the first is the probe's private data
                if self.string(self.words(position + 8 * i, 1)[0]) == name:
                    return i - 1
        return None
