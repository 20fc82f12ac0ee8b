# SPDX-License-Identifier: GPL-2.0-or-later
"""Stacks that go on growing from report to report."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .blocks import Groups, StackKey

__all__ = ["Growth"]


class Growth:
    """Which stacks have grown, and never shrunk, since the reports began to see them.

    reports: how many there were.
    """

    NEEDED = 3

    def __init__(self) -> None:
        # bytes when it was first seen and last, reports since then
        self.history: dict[StackKey, tuple[float, float, int]] = {}
        self.reports = 0

    def note(self, groups: Groups) -> dict[StackKey, float]:
        """{key: bytes grown} of those that grew in this sense over at least NEEDED reports."""
        self.reports += 1
        for key in list(self.history):
            if key not in groups:
                del self.history[key]
        grown = {}
        for key, group in groups.items():
            first, before, seen = self.history.get(key, (group.bytes, group.bytes, 0))
            if group.bytes < before:  # it shrank: begin again
                first, seen = group.bytes, 0
            self.history[key] = first, group.bytes, seen + 1
            if seen + 1 >= self.NEEDED and group.bytes > first:
                grown[key] = group.bytes - first
        return grown

    def heading(self) -> str:
        """What the text report calls its stacks."""
        if self.reports < self.NEEDED:
            return (
                "growing outstanding allocations "
                f"(this is report {self.reports} of the {self.NEEDED} needed)"
            )
        return "growing outstanding allocations"
