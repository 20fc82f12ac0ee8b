# SPDX-License-Identifier: GPL-2.0-or-later
"""Rust's v0 symbol names (RFC 2603, "_R...") as the source spells them.

The output is that of rustc-demangle's alternate form: no hashes of crates, no
types of constants.  A name may refer back to its own parts and so require
exponential output: text, steps and depth are bounded.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import ParamSpec

    P = ParamSpec("P")

__all__ = ["demangle"]

_MAX_TEXT, _MAX_STEPS, _MAX_DEPTH = 4096, 10000, 100
_BASIC_TYPES = {
    "a": "i8",
    "b": "bool",
    "c": "char",
    "d": "f64",
    "e": "str",
    "f": "f32",
    "h": "u8",
    "i": "isize",
    "j": "usize",
    "l": "i32",
    "m": "u32",
    "n": "i128",
    "o": "u128",
    "p": "_",
    "s": "i16",
    "t": "u16",
    "u": "()",
    "v": "...",
    "x": "i64",
    "y": "u64",
    "z": "!",
}
_POINTERS = {"R": "&", "Q": "&", "P": "*const ", "O": "*mut "}
_SIGNED, _UNSIGNED = "aslxni", "htmyoj"  # the types of integer constants
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


def demangle(name: str) -> str:
    """The name as the source spells it.

    Raises ValueError for a name that is not v0, is malformed, or exceeds a limit.
    """
    if not name.startswith("_R") or not name.isascii():
        raise ValueError("not a v0 name")
    reader = _Reader(name[2:])
    text = reader.path(True)
    if reader.peek().isupper():  # the crate that instantiates a generic function
        reader.path(False)
    if reader.at != len(reader.text):
        raise ValueError("something follows the name")
    return text


class _Reader:
    """One name; each method reads one item of the RFC's grammar from `at` on, returns its text."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.steps = 0
        self.depth = 0
        self.lifetimes = 0  # bound by the enclosing binders

    def peek(self) -> str:
        """The next character, "" at the end."""
        return self.text[self.at : self.at + 1]

    def next(self) -> str:
        char = self.peek()
        if not char:
            raise ValueError("the name is cut short")
        self.at += 1
        return char

    def take(self, char: str) -> bool:
        """Skip the next character if it is this one; whether it was."""
        if self.peek() != char:
            return False
        self.at += 1
        return True

    def bounded(self, read: Callable[P, str], *args: P.args, **kwargs: P.kwargs) -> str:
        """Call `read` within the limits; every item that can contain others is read by this."""
        self.steps, self.depth = self.steps + 1, self.depth + 1
        if self.steps > _MAX_STEPS or self.depth > _MAX_DEPTH:
            raise ValueError("the name is too complex")
        text = read(*args, **kwargs)
        self.depth -= 1
        if len(text) > _MAX_TEXT:
            raise ValueError("the name is too long")
        return text

    def back(self, read: Callable[P, str], *args: P.args, **kwargs: P.kwargs) -> str:
        """The item to which a back reference refers; its "B" has been read."""
        start, target = self.at - 1, self.base62()
        if target >= start:
            raise ValueError("a back reference points forward")
        here, self.at = self.at, target
        text = read(*args, **kwargs)
        self.at = here
        return text

    def items(self, read: Callable[[], str]) -> list[str]:
        """Items up to an "E"."""
        parts: list[str] = []
        while not self.take("E"):
            parts.append(read())
            if len(parts) > _MAX_STEPS:
                raise ValueError("the name is too complex")
        return parts

    # Numbers and identifiers

    def base62(self) -> int:
        value, first = 0, self.at
        while not self.take("_"):
            value = value * 62 + _DIGITS.index(self.next())
            if self.at - first > 11:
                raise ValueError("a number is too large")
        return value + 1 if self.at - first > 1 else 0

    def optional62(self, tag: str) -> int:
        """A base-62 number behind a tag, plus 1; 0 without the tag."""
        return self.base62() + 1 if self.take(tag) else 0

    def identifier(self) -> str:
        encoded, digits = self.take("u"), ""
        while self.peek().isdigit() and len(digits) < 5:
            digits += self.next()
            if digits == "0":
                break
        self.take("_")
        size = int(digits)  # ValueError when there is none
        text = self.text[self.at : self.at + size]
        if len(text) < size:
            raise ValueError("the name is cut short")
        self.at += size
        if not encoded:
            return text
        head, _, tail = text.rpartition("_")
        if head:
            tail = f"{head}-{tail}"
        return tail.encode().decode("punycode")

    # Paths

    def path(self, value: bool) -> str:
        """value: in an expression, where generic arguments follow a "::"."""
        return self.bounded(self._path, value)

    def _path(self, value: bool) -> str:
        tag = self.next()
        if tag == "C":
            self.optional62("s")
            return self.identifier()
        if tag == "N":
            return self._nested_path(value)
        if tag in "MX":
            self.optional62("s")
            self.path(False)  # of the impl block, which the source does not name
        if tag == "M":
            return f"<{self.type()}>"
        if tag in "XY":
            return f"<{self.type()} as {self.path(False)}>"
        if tag == "I":
            text = self.path(value)
            separator = "::" if value else ""
            return f"{text}{separator}<{', '.join(self.items(self.argument))}>"
        if tag == "B":
            return self.back(self.path, value)
        raise ValueError("an unknown path")

    def _nested_path(self, value: bool) -> str:
        namespace = self.next()
        text, number, name = self.path(value), self.optional62("s"), self.identifier()
        if namespace.isupper():
            kind = {"C": "closure", "S": "shim"}.get(namespace, namespace)
            separator = ":" if name else ""
            return f"{text}::{{{kind}{separator}{name}#{number}}}"
        return f"{text}::{name}" if name else text

    def argument(self) -> str:
        if self.take("L"):
            return self.lifetime(self.base62())
        return self.const(False) if self.take("K") else self.type()

    # Lifetimes

    def lifetime(self, index: int) -> str:
        if not index:
            return "'_"
        number = self.lifetimes - index
        if number < 0:
            raise ValueError("an unbound lifetime")
        return f"'{chr(97 + number)}" if number < 26 else f"'_{number}"

    def binder(self, read: Callable[[], str]) -> str:
        """What `read` returns, with the lifetimes that a binder in front of it names."""
        count = self.optional62("G")
        if count > 64:
            raise ValueError("too many lifetimes")
        self.lifetimes += count
        names = ", ".join(self.lifetime(i) for i in range(count, 0, -1))
        text = read()
        self.lifetimes -= count
        return f"for<{names}> {text}" if count else text

    # Types

    def type(self) -> str:
        return self.bounded(self._type)

    def _type(self) -> str:
        tag = self.next()
        if tag in _BASIC_TYPES:
            return _BASIC_TYPES[tag]
        if tag in _POINTERS:
            return self._pointer(tag)
        if tag == "A":
            return f"[{self.type()}; {self.const(True)}]"
        if tag == "S":
            return f"[{self.type()}]"
        if tag == "T":
            return _tuple(self.items(self.type))
        if tag == "F":
            return self.binder(self._signature)
        if tag == "D":
            return self._trait_object()
        if tag == "B":
            return self.back(self.type)
        self.at -= 1
        return self.path(False)

    def _pointer(self, tag: str) -> str:
        lifetime = ""
        if tag in "RQ" and self.take("L"):
            index = self.base62()
            if index:
                lifetime = f"{self.lifetime(index)} "
        mut = "mut " if tag == "Q" else ""
        return f"{_POINTERS[tag]}{lifetime}{mut}{self.type()}"

    def _signature(self) -> str:
        text = "unsafe " if self.take("U") else ""
        if self.take("K"):
            abi = "C" if self.take("C") else self.identifier().replace("_", "-")
            text += f'extern "{abi}" '
        text += f"fn({', '.join(self.items(self.type))})"
        return text if self.take("u") else f"{text} -> {self.type()}"

    def _trait_object(self) -> str:
        text = "dyn " + self.binder(lambda: " + ".join(self.items(self._dyn_trait)))
        if not self.take("L"):
            raise ValueError("a trait object without its lifetime")
        index = self.base62()
        return f"{text} + {self.lifetime(index)}" if index else text

    def _dyn_trait(self) -> str:
        text = self.path(False)
        bindings = []
        while self.take("p"):
            bindings.append(f"{self.identifier()} = {self.type()}")
        if not bindings:
            return text
        if text.endswith(">") and not text.startswith("<"):
            return f"{text[:-1]}, {', '.join(bindings)}>"
        return f"{text}<{', '.join(bindings)}>"

    # Constants

    def const(self, value: bool) -> str:
        """value: in an expression; elsewhere what is no plain literal stands in braces."""
        return self.bounded(self._const, value)

    def _const(self, value: bool) -> str:
        tag = self.next()
        if tag == "p":
            return "_"
        if tag == "B":
            return self.back(self.const, value)
        if tag in _SIGNED or tag in _UNSIGNED:
            return self._integer(tag)
        if tag == "b":
            return ("false", "true")[self._index(2)]
        if tag == "c":
            return _quoted(chr(self._index(0x110000)), "'")
        if tag == "R" and self.take("e"):
            return self._string()
        text = self._compound(tag)
        return text if value else f"{{{text}}}"

    def _compound(self, tag: str) -> str:
        """A constant that is no plain literal."""
        if tag == "e":
            return "*" + self._string()
        if tag == "R":
            return "&" + self.const(True)
        if tag == "Q":
            return "&mut " + self.const(True)
        if tag == "A":
            return f"[{', '.join(self.items(self._expression))}]"
        if tag == "T":
            return _tuple(self.items(self._expression))
        if tag == "V":
            return self.path(True) + self._fields()
        raise ValueError("an unknown constant")

    def _expression(self) -> str:
        return self.const(True)

    def _fields(self) -> str:
        """What follows the path of a constant of a struct or enum."""
        kind = self.next()
        if kind == "U":
            return ""
        if kind == "T":
            return f"({', '.join(self.items(self._expression))})"
        if kind == "S":
            return f" {{ {', '.join(self.items(self._field))} }}"
        raise ValueError("an unknown constant")

    def _field(self) -> str:
        self.optional62("s")
        return f"{self.identifier()}: {self.const(True)}"

    def _nibbles(self) -> str:
        first = self.at
        while not self.take("_"):
            if self.next() not in "0123456789abcdef":
                raise ValueError("not a number")
        return self.text[first : self.at - 1]

    def _hexadecimal(self) -> int:
        text = self._nibbles()
        if len(text) > 32:
            raise ValueError("a number is too large")
        return int(text or "0", 16)

    def _integer(self, tag: str) -> str:
        sign = "-" if tag in _SIGNED and self.take("n") else ""
        number = self._hexadecimal()
        return f"{sign}{number}" if number < 1 << 64 else f"{sign}{number:#x}"

    def _index(self, limit: int) -> int:
        number = self._hexadecimal()
        if number >= limit:
            raise ValueError("not a value of its type")
        return number

    def _string(self) -> str:
        return _quoted(bytes.fromhex(self._nibbles()).decode(), '"')


def _tuple(items: list[str]) -> str:
    comma = "," if len(items) == 1 else ""
    return f"({', '.join(items)}{comma})"


def _quoted(text: str, quote: str) -> str:
    """A literal's text as Rust's Debug prints it."""
    names = {"\t": "\\t", "\r": "\\r", "\n": "\\n", "\\": "\\\\", "\0": "\\0", quote: "\\" + quote}
    parts = [quote]
    for char in text:
        if char in names:
            parts.append(names[char])
        else:
            parts.append(char if char.isprintable() else f"\\u{{{ord(char):x}}}")
    return "".join([*parts, quote])
