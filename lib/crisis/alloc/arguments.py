# SPDX-License-Identifier: GPL-2.0-or-later
"""Types of memleak's options."""

from __future__ import annotations

from ..cli import positive_int
from .sampling import Sampling

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentTypeError

__all__ = ["entries", "milliseconds", "sample_bytes", "sample_rate", "size"]

# Of -s: the chance of 2^32 % N more or less in 2^32 / N stays below 1/4096.
_MOST_EVERY = 1 << 20
# htab_map_alloc(), kernel/bpf/hashtab.c: the buckets, a power of two, take 4 GB at most.
_MOST_ENTRIES = 1 << 27
_SHIFTS = {"k": 10, "m": 20, "g": 30}


def _error(text: str) -> ArgumentTypeError:
    from argparse import ArgumentTypeError

    return ArgumentTypeError(text)


def size(text: str) -> int:
    """Bytes, with K, M or G for powers of 1024."""
    shift = _SHIFTS.get(text[-1:].lower(), 0)
    number = text[:-1] if shift else text
    if not number.isascii() or not number.isdigit() or int(number) << shift >= 1 << 63:
        raise _error(f"{text!r} is not a number of bytes")
    return int(number) << shift


def milliseconds(text: str) -> int:
    """A whole number of milliseconds, 0 or more."""
    if not text.isascii() or not text.isdigit() or len(text) > 12:
        raise _error(f"{text!r} is not a number of milliseconds")
    return int(text)


def sample_bytes(text: str) -> Sampling:
    """Sampling by bytes."""
    from argparse import ArgumentTypeError

    try:
        value = size(text)
    except ArgumentTypeError as exc:
        raise _error(f"{exc}. The prefix of symbols is --symbols-prefix") from None
    if not 1 <= value <= 1 << 32:
        raise _error(f"{text!r} is not between 1 and 4G")
    return Sampling(nbytes=value)


def sample_rate(text: str) -> Sampling:
    """Sampling of one call in N; by bytes when there is a suffix."""
    if text[-1:].lower() in _SHIFTS:
        return sample_bytes(text)
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:20]) <= _MOST_EVERY:
        raise _error(
            f"{text[:20]!r} is not between 1 and {_MOST_EVERY}. To sample by bytes, use -S"
        )
    return Sampling(every=int(text))


def entries(text: str) -> int:
    """The size of a BPF hash map."""
    if (len(text) > 10 and text.isdigit()) or positive_int(text) > _MOST_ENTRIES:
        raise _error(
            f"{text[:20]} is more than the {_MOST_ENTRIES} entries that a BPF hash map can have"
        )
    return int(text)
