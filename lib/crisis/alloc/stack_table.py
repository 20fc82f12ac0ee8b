# SPDX-License-Identifier: GPL-2.0-or-later
"""The stacks of a report: from keys to addresses, to frames, and to where a walk ended."""

from __future__ import annotations

import errno

from .. import cli

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable
    from typing import Any

    from ..symbols.frame import Frame
    from ..symbols.sampled_stacks import SampledStacks, Spaces
    from .blocks import Groups, StackKey

    Addresses = tuple[int, ...]
    End = tuple[str, str]  # why a walk ended before the outermost frame, and the same in words

__all__ = ["StackTable"]

# Functions between a tracepoint and the program there.
_OUR_FRAMES = tuple(
    "bpf_prog_ bpf_trace_run __bpf_trace_ __traceiter_ __bpf_prog_ bpf_trampoline_".split()
)


class StackTable:
    """The map `stacks` of a program, or with --unwind the samples.

    user: of processes, not of the kernel; symbols: the Symbols that holds their maps; depth: the
    most frames of a stack; is_alive: whether a process is.
    """

    def __init__(
        self,
        stacks: Any,
        symbols: Any,
        user: bool,
        depth: int,
        is_alive: Callable[[int], bool],
        sampled: SampledStacks | None = None,
    ) -> None:
        self._stacks, self._symbols, self._sampled = stacks, symbols, sampled
        self._user, self._depth, self._is_alive = user, depth, is_alive
        self._spaces: Spaces | None = None
        self.addresses: dict[StackKey, Addresses | None] = {}  # None: the stack was lost
        self._keys: dict[tuple[int, Addresses], int] = {}

    def forget(self, pid: int) -> None:
        """Drop the map of a process: it has ended, or executes another program."""
        if self._spaces:
            self._spaces.forget(pid)

    def learn(self, keys: Collection[StackKey]) -> None:
        """Read the stacks of a report, and look the kernel's addresses up in one pass."""
        if self._sampled:
            known = self._sampled.addresses
            self.addresses = {key: known.get(key[1]) for key in keys}
        else:
            self._read(keys)
        if not self._user:
            addresses = {a for key in keys for a in self.addresses[key] or ()}
            self._symbols.learn_kernel(addresses | {a - 1 for a in addresses})

    def _read(self, keys: Iterable[StackKey]) -> None:
        """Read those that are not known, and cut those that the kernel could not check."""
        unchecked: list[tuple[StackKey, Addresses]] = []
        for key in keys:
            if key in self.addresses:
                continue
            stack = self._stacks.read(key[1]) if key[1] else None
            if stack is None:
                self.addresses[key] = None
                continue
            addresses = tuple(a for a in stack.at[: stack.frames] if a)
            self.addresses[key] = addresses
            if self._user and not stack.checked:
                unchecked.append((key, addresses))
        for pid in {key[0] for key, _ in unchecked}:
            if self._is_alive(pid):
                self._hold(pid)  # after its stacks were read: they may be of a new library
        for key, addresses in unchecked:
            self.addresses[key] = self._code(key[0], addresses)

    def _hold(self, pid: int) -> None:
        try:
            self._symbols.hold(pid)
        except OSError as exc:
            if exc.errno not in (errno.ENOENT, errno.ESRCH):  # it has ended
                cli.note(f"cannot read the memory map of process {pid}: {exc.strerror}")

    def _code(self, pid: int, stack: Addresses) -> Addresses:
        """A stack up to the first frame behind the caller that is no code."""
        is_code = self._symbols.is_code
        code = [i == 0 or is_code(pid, address - 1) for i, address in enumerate(stack)]
        if not self._is_alive(pid):  # what it had mapped last is not known
            return stack[: len(code) - code[::-1].index(True)]
        return stack[: code.index(False)] if False in code else stack

    def merge(self, groups: Groups) -> Groups:
        """The groups, added up where the stacks differ only behind the first frame that is no code.

        Each has the key by which an earlier report had its stack, for --growth.
        """
        self.addresses = {key: stack for key, stack in self.addresses.items() if key in groups}
        self.learn(groups)
        merged: Groups = {}
        keys: dict[tuple[int, Addresses], int] = {}
        for (pid, key), group in groups.items():
            stack = self.addresses[pid, key]
            if stack is not None:
                key = keys.setdefault((pid, stack), self._keys.get((pid, stack), key))
                self.addresses[pid, key] = stack
            into = merged.setdefault((pid, key), group)
            if into is not group:
                into.add(group)
        self._keys = keys
        return merged

    def frames(self, keys: Iterable[StackKey]) -> dict[StackKey, list[Frame] | None]:
        """{key: the Frames of a stack, innermost first, None: it was lost}, after `learn`."""
        found: dict[StackKey, list[Frame] | None] = dict.fromkeys(keys)
        known = [(key, self.addresses[key]) for key in found if self.addresses[key] is not None]
        if self._user:
            wanted = [(key[0], addresses) for key, addresses in known]
            stacks = self._symbols.stacks(wanted, True)
            found.update(zip((key for key, _ in known), stacks))
            return found
        for key, addresses in known:
            frames = self._symbols.kernel(addresses)
            while frames and (frames[0].name or "").startswith(_OUR_FRAMES):
                del frames[0]
            found[key] = frames
        return found

    def ends(self, stacks: dict[StackKey, list[Frame] | None]) -> dict[StackKey, End | None]:
        """{key: (why the walk ended before its outermost frame, the same in words), or None}.

        stacks: of `frames`.  By frame pointers it is known only of code that is described as having
        none.
        """
        ends: dict[StackKey, End | None] = dict.fromkeys(stacks)
        if not self._user:
            return ends
        if self._sampled:
            for key in stacks:
                end = self._sampled.ends.get(key[1])
                if end and end.name != "OUTERMOST":
                    ends[key] = end.name.lower(), end.value
            return ends
        if self._spaces is None:
            from ..symbols.sampled_stacks import Spaces

            self._spaces = Spaces(self._symbols)
        for key, frames in stacks.items():
            if not frames or len(frames) >= self._depth:
                continue
            if self._spaces.ends_without_frame_pointer(key[0], frames):
                ends[key] = "no_frame_pointer", "in code without frame pointers"
        return ends

    def totals(self) -> Iterable[tuple[StackKey, int, int]]:
        """(key, bytes, count) of each stack in the table, as --combined-only has them."""
        values_of = self._stacks.value_layout
        for _, keys, values in self._stacks.chunks():
            columns = values_of.columns(values, "count", "bytes", "tgid")
            for key, (count, nbytes, pid) in zip(memoryview(keys).cast("Q"), columns):
                yield (pid, key), nbytes, count

    def remove(self, key: StackKey) -> None:
        """Remove a stack from the table."""
        self._stacks.remove(key[1])
