# SPDX-License-Identifier: GPL-2.0-or-later
"""Lists of hosts as clush(1), pdsh(1) and Slurm write them: web[1-3,7],db[01-16/5].  Pure."""

from __future__ import annotations

import re
from itertools import product

__all__ = ["MOST", "expand"]

MOST = 100000  # hosts of one list

_PART = re.compile(r"[^\s\[\],]+|\[[0-9,/-]+\]")
_RANGE = re.compile(r"(\d{1,9})(?:-(\d{1,9})(?:/(\d{1,9}))?)?")


def expand(text: str) -> list[str]:
    """The names of a list, in its order.  Leading zeros are kept: [01-10].

    Raises ValueError for what is no such list, and for more than MOST hosts.
    """
    found: list[str] = []
    for word in re.split(r"[,\s]+(?![^\[]*\])", text.strip(", \t\n")):
        parts = _PART.findall(word)
        if not word or "".join(parts) != word:
            raise ValueError(word)
        choices = [_numbers(part[1:-1]) if part[0] == "[" else [part] for part in parts]
        size = 1
        for choice in choices:
            size *= len(choice)
        if size + len(found) > MOST:
            raise ValueError(word)
        found += map("".join, product(*choices))
    return found


def _numbers(text: str) -> list[str]:
    """The numbers of one pair of brackets."""
    found: list[str] = []
    for word in text.split(","):
        match = _RANGE.fullmatch(word)
        if not match:
            raise ValueError(word)
        first, last, step = match[1], match[2] or match[1], int(match[3] or 1)
        numbers = range(int(first), int(last) + 1, step or 1)
        if not step or not numbers or len(numbers) > MOST:
            raise ValueError(word)
        found += [f"{number:0{len(first)}}" for number in numbers]
    return found
