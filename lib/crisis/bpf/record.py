# SPDX-License-Identifier: GPL-2.0-or-later
"""Records: the structs that a BPF program shares with user space, as objects with named fields.

A struct is declared in C only.  The builder takes its layout from bcc's descriptions of the maps
(`describe`) and keeps it in the object as a line of text such as "count:Q comm:16s slots:64Q": the
names of the members, and their types as the struct module writes them.  Padding is "4x".  A number
that is not in a struct is its type alone.  A member of an inner struct has the name of that struct
in front: limit.max is limit_max.

A record is a tuple whose items have names.  An array of char is bytes, any other array a tuple of
numbers.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from operator import itemgetter

TYPE_CHECKING = False  # mypy takes it for true; typing itself would cost a start milliseconds
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

__all__ = ["Layout", "Layouts", "Record", "describe"]

# Types of BPF programs.  bcc resolves typedefs; enumerations and pointers are integers to it.
_CODES = {
    "char": "b",
    "signed char": "b",
    "unsigned char": "B",
    "_Bool": "?",
    "short": "h",
    "unsigned short": "H",
    "int": "i",
    "unsigned int": "I",
    "long": "q",
    "unsigned long": "Q",
    "long long": "q",
    "unsigned long long": "Q",
}


class _UndescribedError(ValueError):
    """A type that records cannot have."""


def describe(description: str | list[Any], size: int) -> str | None:
    """The text of a type's layout.

    description: bcc's, parsed from JSON: the name of a type, or
        [name, [[member, type, [length]], ...], "struct"].
    size: of the type, in bytes.
    Returns None for a type with unions, bit-fields, or arrays of structs or of arrays.
    """
    try:
        if isinstance(description, str):
            text = _code(description)
        else:
            text = " ".join(_members(description, ""))
    except _UndescribedError:
        return None
    # bcc gives only one length of an array of arrays, which makes the sum too small.
    codes = "".join(part.rpartition(":")[2] for part in text.split())
    return text if struct.calcsize("=" + codes) == size else None


def _code(name: str) -> str:
    if name not in _CODES:
        raise _UndescribedError(name)
    return _CODES[name]


def _members(description: list[Any], prefix: str) -> list[str]:
    """The text of each member of a struct, and of those of its inner structs."""
    _, members, kind = description
    if not kind.startswith("struct"):
        raise _UndescribedError(kind)
    found = []
    for name, type_, *array in members:
        if isinstance(type_, list):
            if array:
                raise _UndescribedError(name)
            found += _members(type_, f"{prefix}{name}_" if name else prefix)
        elif not array:
            found.append(f"{prefix}{name}:{_code(type_)}")
        elif not isinstance(array[0], list):  # the width of a bit-field
            raise _UndescribedError(name)
        elif name.startswith("__pad_"):
            found.append(f"{array[0][0]}x")
        else:
            code = "s" if type_ == "char" else _code(type_)
            found.append(f"{prefix}{name}:{array[0][0]}{code}")
    return found


class Record(tuple[object, ...]):
    """The values of a struct's members, in order and by name.

    collections.namedtuple would do, but importing it takes a start 1.5 ms.
    """

    __slots__ = ()
    _fields: tuple[str, ...] = ()

    @classmethod
    def named(cls, name: str, fields: list[str]) -> type[Record]:
        """A class of records with these fields."""
        members = {field: property(itemgetter(index)) for index, field in enumerate(fields)}
        return type(name, (cls,), {**members, "__slots__": (), "_fields": tuple(fields)})

    def replace(self, **changes: object) -> Record:
        """The record with other values of some members."""
        return type(self)(changes.get(name, value) for name, value in zip(self._fields, self))

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={value!r}" for name, value in zip(self._fields, self))
        return f"{type(self).__name__}({values})"


@lru_cache(None)
def _numbers(code: str, number: int) -> struct.Struct:
    """An array of numbers."""
    return struct.Struct(f"={number}{code}")


class Layout:
    """How values of one type lie in memory.

    text: what `describe` returned.  name: for the class of the records.
    fields: the names of a struct's members, () for a number.  size: in bytes.
    """

    def __init__(self, text: str, name: str = "Record") -> None:
        fields: list[str] = []
        codes: list[str] = []
        last = ""
        # (index of the field, type of an element) of each array of numbers
        self._arrays: list[tuple[int, str]] = []
        for part in text.split():
            field, _, code = part.rpartition(":")
            if code[-1] == "x":
                codes.append(code)
                continue
            if len(code) > 1 and code[-1] != "s":
                self._arrays.append((len(fields), code[-1]))
            fields.append(field)
            codes.append(f"{struct.calcsize('=' + code)}s" if len(code) > 1 else code)
            last = code
        self._codes = tuple(codes)
        self._columns: dict[tuple[str, ...], struct.Struct] = {}
        self._struct = struct.Struct("=" + "".join(codes))
        self.size = self._struct.size
        self.fields = tuple(fields) if fields[0] else ()
        self._make = Record.named(name, fields) if self.fields else None
        # A last array may have fewer elements in memory: in a map whose values were made shorter,
        # or in a record that was sent so.
        self._element = struct.calcsize("=1" + last[-1]) if len(last) > 1 else 0
        # the type of its elements, where it is the only array of numbers
        self._only = last[-1] if self._arrays == [(len(fields) - 1, last[-1:])] else ""
        if codes[-1][-1] == "x":
            codes.pop()
        self._head = struct.Struct("=" + "".join(codes[:-1] if self._element else codes))
        self._end = self._head.size + (struct.calcsize("=" + last) if self._element else 0)

    def unpack(self, data: bytes) -> Any:
        """The record, or number, in bytes.  A last array has as many elements as there are."""
        if self._make is None:
            return self._head.unpack_from(data)[0]
        if not self._arrays and len(data) >= self.size:
            return self._make(self._struct.unpack_from(data))
        values = self._head.unpack_from(data)
        if self._only:
            number = (min(len(data), self._end) - self._head.size) // self._element
            numbers = _numbers(self._only, number).unpack_from(data, self._head.size)
            return self._make((*values, numbers))
        if self._element:
            values = (*values, data[self._head.size : self._end])
        if not self._arrays:
            return self._make(values)
        fields = list(values)
        for index, code in self._arrays:
            number = len(fields[index]) // struct.calcsize("=" + code)
            fields[index] = struct.unpack(f"={number}{code}", fields[index])
        return self._make(fields)

    def unpack_all(self, data: bytes) -> map[Any]:
        """The records that lie end to end, one by one, of a struct without arrays of numbers."""
        assert self._make is not None, "not of a number"
        return map(self._make, self._struct.iter_unpack(data))

    def columns(self, data: bytes, *names: str) -> Iterator[tuple[Any, ...]]:
        """Tuples of these members of the records that lie end to end.

        For millions of records: it costs less than `unpack_all`.
        names: in the order of the struct.
        """
        if names not in self._columns:
            left, codes = list(names), []
            fields = iter(self.fields)
            for code in self._codes:
                if code[-1] != "x" and next(fields) in left[:1]:
                    codes.append(code)
                    del left[0]
                else:
                    codes.append(f"{struct.calcsize('=' + code)}x")
            assert not left, f"no {left[0]}, or not in the order of the struct"
            self._columns[names] = struct.Struct("=" + "".join(codes))
        return self._columns[names].iter_unpack(data)

    def make(self, **values: int | bytes) -> Any:
        """The record with these values of its members."""
        assert self._make is not None, "not of a number"
        return self._make(values[name] for name in self.fields)

    def pack(self, *values: int | bytes) -> bytes:
        """The bytes of a number, or of a struct without arrays of numbers from its fields."""
        return self._struct.pack(*values)

    def offset(self, field: str) -> int:
        """Where a member begins, in bytes."""
        at, left = 0, self.fields.index(field)
        for code in self._codes:
            if code[-1] != "x":
                if not left:
                    break
                left -= 1
            at += struct.calcsize("=" + code)
        return at

    def sized(self, elements: int) -> int:
        """The size in bytes of a struct whose last member, an array, has `elements` elements."""
        return self._head.size + elements * self._element


class Layouts(dict[str, Layout]):
    """The Layouts of an object's types, by a struct's name or a number's type.

    Each is made when it is first needed.
    """

    def __init__(self, texts: dict[str, str]) -> None:
        """texts: {name of a struct: what `describe` returned}."""
        super().__init__()
        self._texts = texts

    def __missing__(self, name: str) -> Layout:
        layout = Layout(self._texts.get(name, name), name)
        self[name] = layout
        return layout
