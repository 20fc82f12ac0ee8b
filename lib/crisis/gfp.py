# SPDX-License-Identifier: GPL-2.0-or-later
"""Names for the bits of a page allocation's gfp_t, as the running kernel has them.

The bits move from release to release (include/linux/gfp_types.h).  The kernel
spells out its own table in the print format of each tracepoint that shows such
flags, and has the bits' numbers in BTF since Linux 6.10 (enum ___GFP_*_BIT).
"""

import re

__all__ = ["CONSTANTS", "table", "names"]

CONSTANTS = ("___GFP_*",)       # of compile.Source, for `table`

_ENTRY = re.compile(r'\{\s*([^{}"]*?)\s*,\s*"(\w+)"\s*\}')
# Casts, and the suffixes of numbers.
_NOISE = re.compile(r"\(\s*(?:__force\s+)?(?:unsigned\s+long|unsigned\s+int|gfp_t)\s*\)"
                    r"|(?<=[0-9a-fA-F])[uU]?[lL]{0,2}\b")
_SYMBOL = re.compile(r"\b[A-Za-z_]\w*")
_ARITHMETIC = re.compile(r"(?:0x[0-9a-fA-F]+|\d+|[()|&~<\s])+")


def table(shown, constants=None):
    """[(mask, name)] in the kernel's order, so that names of several bits come before those of one.

    shown: the print format of a tracepoint with gfp_flags, "" for none.
    constants: {name: value} of enumeration constants, for formats that name bits by them.
    """
    constants, found = constants or {}, []
    for expression, name in _ENTRY.findall(shown):
        text = _NOISE.sub("", _SYMBOL.sub(lambda word: str(constants.get(word.group(), word.group())), expression))
        if _ARITHMETIC.fullmatch(text):
            # Nothing but numbers, parentheses and | & ~ << is left.
            mask = eval(text, {"__builtins__": {}}) & 0xffffffffffffffff
            if mask:
                found.append((mask, name))
    if not found:
        found = [(1 << bit, "__GFP_" + name[len("___GFP_"):-len("_BIT")]) for name, bit in
                 sorted(constants.items(), key=lambda item: item[1])
                 if name.startswith("___GFP_") and name.endswith("_BIT") and name != "___GFP_LAST_BIT"]
    return found


def names(flags, entries):
    """The flags as the kernel's __print_flags writes them: GFP_KERNEL|__GFP_ZERO, what has no name in hexadecimal."""
    parts, rest = [], flags
    for mask, name in entries:
        if rest & mask == mask:
            parts.append(name)
            rest &= ~mask
    if rest or not parts:
        parts.append("0x%x" % rest if flags else "none")
    return "|".join(parts)
