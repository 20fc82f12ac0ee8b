# SPDX-License-Identifier: GPL-2.0-or-later
"""Which allocations are sampled, and how many each sampled one stands for."""

from __future__ import annotations

from math import expm1

__all__ = ["Sampling"]


class Sampling:
    """A way to sample; false when it takes every allocation.

    every: one allocation in this many, whatever its size; or
    nbytes: the points of a Poisson process over the bytes allocated, this many bytes apart on
        average.  A block is sampled when one or more fall into it.
    """

    def __init__(self, every: int = 1, nbytes: int = 0) -> None:
        self.every, self.nbytes = every, nbytes

    def __bool__(self) -> bool:
        return self.every > 1 or self.nbytes > 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sampling) and vars(self) == vars(other)

    def probability(self, size: int) -> float:
        """The probability p that a block is sampled; a sampled one stands for 1/p blocks.

        size: in bytes.  Blocks of none are sampled as those of 1.
        """
        return -expm1(-max(size, 1) / self.nbytes) if self.nbytes else 1 / self.every
