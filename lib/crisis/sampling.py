# SPDX-License-Identifier: GPL-2.0-or-later
"""Which allocations are sampled, and for how many each sampled one stands."""

from math import expm1

__all__ = ["Sampling"]


class Sampling:
    """A way to sample; false when it takes every allocation.

    every: one allocation in this many, whatever its size; or
    nbytes: the points of a Poisson process over the bytes allocated, this many
    bytes apart on average: a block is sampled when one or more fall into it.
    """

    def __init__(self, every=1, nbytes=0):
        self.every, self.nbytes = every, nbytes

    def __bool__(self):
        return self.every > 1 or self.nbytes > 0

    def __eq__(self, other):
        return isinstance(other, Sampling) and (self.every, self.nbytes) == (other.every, other.nbytes)

    def probability(self, size):
        """That a block of a size in bytes is sampled; one of no bytes is taken as one of 1.  It stands for 1/p blocks."""
        return -expm1(-max(size, 1) / self.nbytes) if self.nbytes else 1 / self.every
