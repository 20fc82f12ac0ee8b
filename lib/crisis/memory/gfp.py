# SPDX-License-Identifier: GPL-2.0-or-later
"""Names for the bits of a page allocation's gfp_t, as the running kernel has them.

The bits move from release to release (include/linux/gfp_types.h).  The kernel
spells out its own table in the print format of each tracepoint that shows such
flags, and has the bits' numbers in BTF since Linux 6.10 (enum ___GFP_*_BIT).
"""

from __future__ import annotations

import operator
import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["CONSTANTS", "table", "names"]

CONSTANTS = ("___GFP_*",)  # of bpf.Source, for `table`
_ENTRY = re.compile(r'\{\s*([^{}"]*?)\s*,\s*"(\w+)"\s*\}')
# Casts, and the suffixes of numbers.
_NOISE = re.compile(
    r"\(\s*(?:__force\s+)?(?:unsigned\s+long|unsigned\s+int|gfp_t)\s*\)"
    r"|(?<=[0-9a-fA-F])[uU]?[lL]{0,2}\b"
)
_SYMBOL = re.compile(r"\b[A-Za-z_]\w*")


_TOKEN = re.compile(r"\s*(0x[0-9a-fA-F]+|\d+|<<|[()|&~])")
_OPERATORS = {"|": (1, operator.or_), "&": (2, operator.and_), "<<": (3, operator.lshift)}
_MASK = 0xFFFFFFFFFFFFFFFF  # of an unsigned long


def table(shown: str, constants: Mapping[str, int] | None = None) -> list[tuple[int, str]]:
    """[(mask, name)] in the kernel's order, so that names of several bits come before those of one.

    shown: the print format of a tracepoint with gfp_flags, "" for none.
    constants: {name: value} of enumeration constants, for formats that name bits by them.
    """
    constants = constants or {}
    found: list[tuple[int, str]] = []
    for expression, name in _ENTRY.findall(shown):
        numbers = _SYMBOL.sub(
            lambda word: str(constants.get(word.group(), word.group())), expression
        )
        try:
            mask = _Expression(_NOISE.sub("", numbers)).value()
        except (ValueError, RecursionError):  # of something that has no number here
            continue
        if mask:
            found.append((mask, name))
    if not found:
        found = [
            (1 << bit, "__GFP_" + name[len("___GFP_") : -len("_BIT")])
            for name, bit in sorted(constants.items(), key=lambda item: item[1])
            if name.startswith("___GFP_") and name.endswith("_BIT") and name != "___GFP_LAST_BIT"
        ]
    return found


def names(flags: int, entries: Iterable[tuple[int, str]]) -> str:
    """The flags as the kernel's __print_flags writes them: GFP_KERNEL|__GFP_ZERO.

    What has no name is in hexadecimal.
    """
    parts, rest = [], flags
    for mask, name in entries:
        if rest & mask == mask:
            parts.append(name)
            rest &= ~mask
    if rest or not parts:
        parts.append(f"0x{rest:x}" if flags else "none")
    return "|".join(parts)


class _Expression:
    """An integer expression in C of numbers, parentheses and | & ~ <<.  Raises ValueError."""

    def __init__(self, text: str) -> None:
        self._tokens: list[str] = []
        at, text = 0, text.rstrip()
        while at < len(text):
            found = _TOKEN.match(text, at)
            if not found:
                raise ValueError(text)
            self._tokens.append(found.group(1))
            at = found.end()
        self._at = 0

    def value(self) -> int:
        value = self._binary(1)
        if self._next():
            raise ValueError("more follows")
        return value & _MASK

    def _next(self) -> str:
        return self._tokens[self._at] if self._at < len(self._tokens) else ""

    def _take(self) -> str:
        token = self._next()
        self._at += 1
        return token

    def _binary(self, lowest: int) -> int:
        """An expression of operators that bind at least so tightly."""
        left = self._unary()
        while True:
            precedence, function = _OPERATORS.get(self._next(), (0, None))
            if function is None or precedence < lowest:
                return left
            self._take()
            right = self._binary(precedence + 1)
            if function is operator.lshift and not 0 <= right < 64:
                raise ValueError(f"shift by {right}")
            left = function(left, right)

    def _unary(self) -> int:
        token = self._take()
        if token == "~":
            return ~self._unary()
        if token == "(":
            value = self._binary(1)
            if self._take() != ")":
                raise ValueError("no closing parenthesis")
            return value
        return int(token, 16 if token.startswith("0x") else 10)
