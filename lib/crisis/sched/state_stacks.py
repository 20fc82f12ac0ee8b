# SPDX-License-Identifier: GPL-2.0-or-later
"""The stacks with which threads wait, by the time of the waits: progs/tsa.bpf.c with --stacks."""

from __future__ import annotations

from . import states

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from ..symbols.decode import Symbols
    from ..symbols.frame import Frame

__all__ = ["LARGEST", "Stack", "Stacks", "largest", "mask"]

LARGEST = "largest"  # for --stacks without a state
_RESTING = ("sleep", "idle")
# What a wait may become when it has ended.
_UNDECIDED = {"lock": ("condition", "shared"), "idle": ("condition", "shared")}


def mask(state: str | None) -> int:
    """The parameter `stacks`: a bit for each state, as the program knows it, that gets stacks.

    state: one of STATES, or LARGEST for all but SLEEP and IDLE; None for no stacks.
    """
    if state is None:
        return 0
    names = [state]
    if state == LARGEST:
        names = [name for name in states.STATES[2:] if name not in _RESTING]
    for name in list(names):
        names += _UNDECIDED.get(name, ())
    return sum(1 << states.TRACED.index(name) for name in set(names))


def largest(ns: Iterable[int]) -> str:
    """The state in which the most time was spent, of those that are not on a CPU nor at rest.

    ns: in the order of STATES.
    """
    waits = [pair for pair in zip(ns, states.STATES) if pair[1] not in ("user", "sys", *_RESTING)]
    return max(waits, key=lambda pair: pair[0])[1]


class Stack:
    """The time of the waits with one stack: pid, ns, frames (innermost first)."""

    __slots__ = ("pid", "ns", "frames")

    def __init__(self, pid: int, ns: int, frames: list[Frame]) -> None:
        self.pid, self.ns, self.frames = pid, ns, frames


class Stacks:
    """The stacks of the waits since the last take()."""

    def __init__(self, addresses: Any) -> None:
        """addresses: the map with the stacks."""
        self._addresses = addresses
        self._symbols: Symbols | None = None
        self._known: dict[int, list[int]] = {}  # the addresses by the number of a stack
        self._times: dict[tuple[int, int, int, int], int] = {}

    def add(self, records: Iterable[tuple[Any, Any]]) -> None:
        """Add records of the map stack_times.  Holds the files of their processes."""
        from ..symbols.decode import Symbols

        self._symbols = self._symbols or Symbols()
        pids = set()
        for key, value in records:
            what = key.tgid, key.state, key.kernel_stack, key.user_stack
            self._times[what] = self._times.get(what, 0) + value.ns
            pids.add(key.tgid)
        for pid in pids:
            try:
                self._symbols.hold(pid)
            except OSError:  # it has ended: its addresses have no names
                continue

    def take(self, state: str) -> list[Stack]:
        """The stacks of a state, those of the most time first."""
        from ..symbols.frame import without_tracing

        number, symbols = states.TRACED.index(state), self._symbols
        times, self._times = self._times, {}
        if symbols is None:
            return []
        wanted = [(key, ns) for key, ns in times.items() if key[1] == number and ns]
        wanted.sort(key=lambda item: -item[1])
        user = symbols.stacks([(key[0], self._read(key[3])) for key, _ in wanted], True)
        kernel = [self._read(key[2]) for key, _ in wanted]
        symbols.learn_kernel({address - 1 for stack in kernel for address in stack if address})
        return [
            Stack(key[0], ns, without_tracing(symbols.kernel(addresses, True)) + frames)
            for (key, ns), addresses, frames in zip(wanted, kernel, user)
        ]

    def _read(self, number: int) -> list[int]:
        """The addresses of a stack; [] of one that was not recorded."""
        if number < 0:
            return []
        if number not in self._known:
            self._known[number] = self._addresses.stack(number) or []
        return self._known[number]
