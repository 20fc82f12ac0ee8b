# SPDX-License-Identifier: GPL-2.0-or-later
"""Rust's v0 symbol names (RFC 2603, "_R...") as the source spells them.

The output is that of rustc-demangle's alternate form: no hashes of crates, no
types of constants.  A name may refer back to its own parts and so ask for
exponential output: text, steps and depth are bounded.
"""

__all__ = ["demangle"]

_MOST_TEXT, _MOST_STEPS, _MOST_DEPTH = 4096, 10000, 100
_BASIC = {"a": "i8", "b": "bool", "c": "char", "d": "f64", "e": "str", "f": "f32", "h": "u8", "i": "isize",
          "j": "usize", "l": "i32", "m": "u32", "n": "i128", "o": "u128", "p": "_", "s": "i16", "t": "u16", "u": "()",
          "v": "...", "x": "i64", "y": "u64", "z": "!"}
_POINTERS = {"R": "&", "Q": "&", "P": "*const ", "O": "*mut "}
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


def demangle(name):
    """The name as the source spells it.  Raises ValueError for what is not a v0 name, or is too much."""
    if not name.startswith("_R") or not name.isascii():
        raise ValueError("not a v0 name")
    reader = _Reader(name[2:])
    text = reader.path(True)
    if reader.peek().isupper():             # the crate that instantiates a generic function
        reader.path(False)
    if reader.at != len(reader.text):
        raise ValueError("something follows the name")
    return text


class _Reader:
    """One name; each method reads one item of the RFC's grammar from `at` on and returns its text."""

    def __init__(self, text):
        self.text, self.at, self.steps, self.depth, self.lifetimes = text, 0, 0, 0, 0

    def peek(self):
        return self.text[self.at:self.at + 1]

    def next(self):
        char = self.peek()
        if not char:
            raise ValueError("the name is cut short")
        self.at += 1
        return char

    def take(self, char):
        """True, and past it, when the next character is this one."""
        if self.peek() != char:
            return False
        self.at += 1
        return True

    def bounded(self, read, *args):
        """What `read` returns, within the limits; every item that can hold others is read by this."""
        self.steps, self.depth = self.steps + 1, self.depth + 1
        if self.steps > _MOST_STEPS or self.depth > _MOST_DEPTH:
            raise ValueError("the name is too complex")
        text = read(*args)
        self.depth -= 1
        if len(text) > _MOST_TEXT:
            raise ValueError("the name is too long")
        return text

    def back(self, read, *args):
        """The item that a back reference means; its "B" has been read."""
        start, target = self.at - 1, self.base62()
        if target >= start:
            raise ValueError("a back reference points forward")
        here, self.at = self.at, target
        text = read(*args)
        self.at = here
        return text

    def list(self, read, separator=", "):
        """Items up to an "E"."""
        parts = []
        while not self.take("E"):
            parts.append(read())
            if len(parts) > _MOST_STEPS:
                raise ValueError("the name is too complex")
        return separator.join(parts), len(parts)

    # Numbers and identifiers

    def base62(self):
        value, first = 0, self.at
        while not self.take("_"):
            value = value * 62 + _DIGITS.index(self.next())
            if self.at - first > 11:
                raise ValueError("a number is too large")
        return value + 1 if self.at - first > 1 else 0

    def optional62(self, tag):
        """A base-62 number behind a tag, plus 1; 0 without the tag."""
        return self.base62() + 1 if self.take(tag) else 0

    def identifier(self):
        encoded, digits = self.take("u"), ""
        while self.peek().isdigit() and len(digits) < 5:
            digits += self.next()
            if digits == "0":
                break
        self.take("_")
        size = int(digits)                  # ValueError when there is none
        text = self.text[self.at:self.at + size]
        if len(text) < size:
            raise ValueError("the name is cut short")
        self.at += size
        if not encoded:
            return text
        head, _, tail = text.rpartition("_")
        return (head + "-" + tail if head else tail).encode().decode("punycode")

    # Paths

    def path(self, value):
        """value: in an expression, where generic arguments follow a "::"."""
        return self.bounded(self._path, value)

    def _path(self, value):
        tag = self.next()
        if tag == "C":
            self.optional62("s")
            return self.identifier()
        if tag == "N":
            namespace = self.next()
            text, number, name = self.path(value), self.optional62("s"), self.identifier()
            if namespace.isupper():
                kind = {"C": "closure", "S": "shim"}.get(namespace, namespace)
                return "%s::{%s%s#%d}" % (text, kind, ":" + name if name else "", number)
            return "%s::%s" % (text, name) if name else text
        if tag in "MX":
            self.optional62("s")
            self.path(False)                # of the impl block, which the source does not name
        if tag == "M":
            return "<%s>" % self.type()
        if tag in "XY":
            return "<%s as %s>" % (self.type(), self.path(False))
        if tag == "I":
            text = self.path(value)
            return "%s%s<%s>" % (text, "::" if value else "", self.list(self.argument)[0])
        if tag == "B":
            return self.back(self.path, value)
        raise ValueError("an unknown path")

    def argument(self):
        if self.take("L"):
            return self.lifetime(self.base62())
        return self.const(False) if self.take("K") else self.type()

    # Lifetimes

    def lifetime(self, index):
        if not index:
            return "'_"
        number = self.lifetimes - index
        if number < 0:
            raise ValueError("an unbound lifetime")
        return "'" + (chr(97 + number) if number < 26 else "_%d" % number)

    def binder(self, read):
        """What `read` returns, with the lifetimes that a binder in front of it names."""
        count = self.optional62("G")
        if count > 64:
            raise ValueError("too many lifetimes")
        self.lifetimes += count
        names = ", ".join(self.lifetime(i) for i in range(count, 0, -1))
        text = ("for<%s> " % names if count else "") + read()
        self.lifetimes -= count
        return text

    # Types

    def type(self):
        return self.bounded(self._type)

    def _type(self):
        tag = self.next()
        if tag in _BASIC:
            return _BASIC[tag]
        if tag in _POINTERS:
            text = _POINTERS[tag]
            if tag in "RQ" and self.take("L"):
                index = self.base62()
                text += self.lifetime(index) + " " if index else ""
            return text + ("mut " if tag == "Q" else "") + self.type()
        if tag == "A":
            return "[%s; %s]" % (self.type(), self.const(True))
        if tag == "S":
            return "[%s]" % self.type()
        if tag == "T":
            text, count = self.list(self.type)
            return "(%s%s)" % (text, "," if count == 1 else "")
        if tag == "F":
            return self.binder(self.signature)
        if tag == "D":
            text = "dyn " + self.binder(lambda: self.list(self.dyn_trait, " + ")[0])
            if not self.take("L"):
                raise ValueError("a trait object without its lifetime")
            index = self.base62()
            return text + (" + " + self.lifetime(index) if index else "")
        if tag == "B":
            return self.back(self.type)
        self.at -= 1
        return self.path(False)

    def signature(self):
        text = "unsafe " if self.take("U") else ""
        if self.take("K"):
            text += 'extern "%s" ' % ("C" if self.take("C") else self.identifier().replace("_", "-"))
        text += "fn(%s)" % self.list(self.type)[0]
        return text if self.take("u") else "%s -> %s" % (text, self.type())

    def dyn_trait(self):
        text = self.path(False)
        bindings = []
        while self.take("p"):
            bindings.append("%s = %s" % (self.identifier(), self.type()))
        if not bindings:
            return text
        if text.endswith(">") and not text.startswith("<"):
            return "%s, %s>" % (text[:-1], ", ".join(bindings))
        return "%s<%s>" % (text, ", ".join(bindings))

    # Constants

    def const(self, value):
        """value: in an expression; elsewhere what is no plain literal stands in braces."""
        return self.bounded(self._const, value)

    def _const(self, value):
        tag = self.next()
        if tag == "p":
            return "_"
        if tag == "B":
            return self.back(self.const, value)
        if tag in "htmyojaslxni":
            sign = "-" if tag in "aslxni" and self.take("n") else ""
            number = self.hexadecimal()
            return sign + ("%d" % number if number < 1 << 64 else "0x%x" % number)
        if tag == "b":
            return ("false", "true")[self.index(2)]
        if tag == "c":
            return "'%s'" % _escaped(chr(self.index(0x110000)), "'")
        if tag == "R" and self.take("e"):
            return self.string()
        if tag == "e":
            text = "*" + self.string()
        elif tag in "RQ":
            text = ("&" if tag == "R" else "&mut ") + self.const(True)
        elif tag == "A":
            text = "[%s]" % self.list(lambda: self.const(True))[0]
        elif tag == "T":
            items, count = self.list(lambda: self.const(True))
            text = "(%s%s)" % (items, "," if count == 1 else "")
        elif tag == "V":
            text = self.path(True) + self.fields()
        else:
            raise ValueError("an unknown constant")
        return text if value else "{%s}" % text

    def fields(self):
        """What follows the path of a constant of a struct or enum."""
        kind = self.next()
        if kind == "U":
            return ""
        if kind == "T":
            return "(%s)" % self.list(lambda: self.const(True))[0]
        if kind == "S":
            return " { %s }" % self.list(self.field)[0]
        raise ValueError("an unknown constant")

    def field(self):
        self.optional62("s")
        return "%s: %s" % (self.identifier(), self.const(True))

    def nibbles(self):
        first = self.at
        while not self.take("_"):
            if self.next() not in "0123456789abcdef":
                raise ValueError("not a number")
        return self.text[first:self.at - 1]

    def hexadecimal(self):
        text = self.nibbles()
        if len(text) > 32:
            raise ValueError("a number is too large")
        return int(text or "0", 16)

    def index(self, limit):
        number = self.hexadecimal()
        if number >= limit:
            raise ValueError("not a value of its type")
        return number

    def string(self):
        return '"%s"' % _escaped(bytes.fromhex(self.nibbles()).decode(), '"')


def _escaped(text, quote):
    """A literal's text as Rust's Debug prints it."""
    names = {"\t": "\\t", "\r": "\\r", "\n": "\\n", "\\": "\\\\", "\0": "\\0", quote: "\\" + quote}
    return "".join(names.get(c) or (c if c.isprintable() else "\\u{%x}" % ord(c)) for c in text)
