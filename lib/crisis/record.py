# SPDX-License-Identifier: GPL-2.0-or-later
"""Records: the structs that a BPF program shares with user space, as objects with named fields.

A struct is declared in C only.  The builder takes its layout from bcc's descriptions of the maps (`describe`) and keeps
it in the object as a line of text such as "count:Q comm:16s slots:64Q": the names of the members, and their types as
the struct module writes them.  Padding is "4x".  A number that is not in a struct is its type alone.  A member of an
inner struct has the name of that in front: limit.max is limit_max.

A record is a tuple whose items have names.  An array of char is bytes, any other array a tuple of numbers.
"""

import struct
from operator import itemgetter

__all__ = ["Layout", "Layouts", "Record", "describe"]

# Types as BPF programs have them.  bcc resolves typedefs, and describes enumerations and pointers as integers.
_CODES = {"char": "b", "signed char": "b", "unsigned char": "B", "_Bool": "?", "short": "h", "unsigned short": "H",
          "int": "i", "unsigned int": "I", "long": "q", "unsigned long": "Q", "long long": "q",
          "unsigned long long": "Q"}


class _Undescribed(ValueError):
    """A type that records cannot have."""


def describe(description, size):
    """The text of a type's layout; None for one with unions, bit-fields, or arrays of structs or of arrays.

    description: bcc's, parsed from JSON: a type's name, or [name, [[member, type, [length]], ...], "struct"].
    size: of the type, in bytes.
    """
    try:
        text = _CODES.get(description) if isinstance(description, str) else " ".join(_members(description, ""))
    except _Undescribed:
        return None
    # Of an array of arrays bcc gives one length only, which makes the sum too small.
    return text if text and _size(text) == size else None


def _size(text):
    return struct.calcsize("=" + "".join(field.rpartition(":")[2] for field in text.split()))


def _members(description, prefix):
    """Yield the text of each member of a struct and of its inner structs."""
    _, members, kind = description
    if not kind.startswith("struct"):
        raise _Undescribed
    for name, type_, *length in members:
        if isinstance(type_, list) and not length:
            yield from _members(type_, "%s%s_" % (prefix, name) if name else prefix)
            continue
        # A bit-field has its width where an array has the list of its length.
        if isinstance(type_, list) or type_ not in _CODES or length and not isinstance(length[0], list):
            raise _Undescribed
        number = str(length[0][0]) if length else ""
        if name.startswith("__pad_"):
            yield number + "x"
        else:
            yield "%s%s:%s%s" % (prefix, name, number, "s" if number and type_ == "char" else _CODES[type_])


class Record(tuple):
    """The values of a struct's members, in order and by name.  (collections.namedtuple costs a start 1.5 ms.)"""

    __slots__ = ()
    _fields = ()

    @classmethod
    def named(cls, name, fields):
        """A class of records with these fields."""
        members = {field: property(itemgetter(index)) for index, field in enumerate(fields)}
        return type(name, (cls,), dict(members, __slots__=(), _fields=tuple(fields)))

    def __repr__(self):
        values = ", ".join("%s=%r" % pair for pair in zip(self._fields, self))
        return "%s(%s)" % (type(self).__name__, values)


class Layout:
    """How values of one type lie in memory.

    text: what `describe` returned; name: for the class of the records.
    fields: the names of a struct's members, () for a number; size: in bytes.
    """

    def __init__(self, text, name="Record"):
        self._arrays = []       # (index of the field, type of an element) of arrays of numbers
        fields, codes, last = [], [], ""
        for part in text.split():
            field, _, code = part.rpartition(":")
            if code[-1] != "x":
                if len(code) > 1 and code[-1] != "s":
                    self._arrays.append((len(fields), code[-1]))
                fields.append(field)
                last = code
            codes.append("%ds" % struct.calcsize("=" + code) if len(code) > 1 and code[-1] != "x" else code)
        self.fields = tuple(fields) if fields[0] else ()
        self._struct = struct.Struct("=" + "".join(codes))
        self.size = self._struct.size
        self._make = Record.named(name, fields) if self.fields else None
        # A last array may have fewer elements in memory: of a map that was sized so, of a record that was sent so.
        self._element = struct.calcsize("=" + last[-1].replace("s", "c")) if len(last) > 1 else 0
        if codes[-1][-1] == "x":
            codes.pop()
        self._head = struct.Struct("=" + "".join(codes[:-1] if self._element else codes))
        self._end = self._head.size + (struct.calcsize("=" + last) if self._element else 0)

    def unpack(self, data):
        """The record, or number, in bytes; a last array has as many elements as there are."""
        values = self._head.unpack_from(data)
        if not self._make:
            return values[0]
        if self._element:
            values += data[self._head.size:self._end],
        if not self._arrays:
            return self._make(values)
        values = list(values)
        for index, code in self._arrays:
            raw = values[index]
            values[index] = struct.unpack("=%d%s" % (len(raw) // struct.calcsize("=" + code), code), raw)
        return self._make(values)

    def unpack_all(self, data):
        """The records that lie end to end in bytes, one by one, of a struct without arrays of numbers."""
        return map(self._make, self._struct.iter_unpack(data))

    def pack(self, *values):
        """The bytes of a number, or of a struct without arrays of numbers, from the values of its fields in order."""
        return self._struct.pack(*values)

    def sized(self, elements):
        """The size in bytes of a struct whose last member, an array, has that number of elements."""
        return self._head.size + elements * self._element


class Layouts(dict):
    """The Layouts of an object's types, each made when it is first needed: by a struct's name, or a number's type."""

    def __init__(self, texts):
        """texts: {name of a struct: what `describe` returned}."""
        super().__init__()
        self._texts = texts

    def __missing__(self, name):
        self[name] = layout = Layout(self._texts.get(name, name), name)
        return layout
