# SPDX-License-Identifier: GPL-2.0-or-later
"""The table of outstanding blocks: its groups by stack, and what user space changes in it."""

from __future__ import annotations

import errno
from re import finditer

from .kinds import MAPPED
from .ranges import punched

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from .sampling import Sampling

    StackKey = tuple[int, int]  # process (0 for the kernel) and key of a stack
    Groups = dict[StackKey, "Group"]
    Since = dict[int, "int | None"]  # process -> ns, None for one that has ended

__all__ = ["Blocks", "Group"]

_NOEXIST = 1  # BPF_NOEXIST, include/uapi/linux/bpf.h


class Group:
    """What one stack has outstanding: with sampling, estimates and their variances.

    bytes, count, bytes_variance, count_variance; blocks: [(address, bytes)] if they are wanted.
    """

    __slots__ = ("blocks", "bytes", "bytes_variance", "count", "count_variance")

    def __init__(self, nbytes: float = 0, count: float = 0) -> None:
        self.bytes, self.count = nbytes, count
        self.bytes_variance = self.count_variance = 0.0
        self.blocks: list[tuple[int, int]] = []

    def add_sampled(self, size: int, probability: float) -> None:
        """Add a block that was sampled with this probability: see sampling.Sampling."""
        p = probability
        self.bytes += size / p
        self.count += 1 / p
        self.bytes_variance += size * size * (1 - p) / (p * p)
        self.count_variance += (1 - p) / (p * p)

    def add(self, other: Group) -> None:
        """Add another group."""
        self.bytes += other.bytes
        self.count += other.count
        self.bytes_variance += other.bytes_variance
        self.count_variance += other.count_variance
        self.blocks += other.blocks


class Blocks:
    """The map `blocks` of a program.

    blocks, targets: the program's maps; targets is None for the kernel.
    unplaced: blocks for which the table had no room.
    adjusted: {(tgid, stack key): [bytes, count]} that the kernel's totals of --combined-only lack.
    """

    def __init__(self, blocks: Any, targets: Any | None) -> None:
        self._blocks, self._targets = blocks, targets
        self.unplaced = 0
        self.adjusted: dict[StackKey, list[int]] = {}
        self._stale: list[tuple[int, int, int]] = []

    # One block

    def put(self, address: int, tgid: int, block: Any) -> None:
        """Enter a block into the table, unless there is a newer one."""
        try:
            self._blocks.write((address, tgid), *block, flags=_NOEXIST)
        except OSError as exc:
            if exc.errno not in (errno.EEXIST, errno.E2BIG):
                raise
            self.unplaced += exc.errno == errno.E2BIG
            return
        self._adjust(tgid, block, 1)

    def put_mapping(self, event: Any, address: int, size: int, kind: int) -> None:
        """Enter a part of the mapping that an event is about."""
        made = self._blocks.value_layout.make(
            size=size, ns=event.ns, stack=event.stack, tid=event.tid, kind=kind
        )
        self.put(address, event.tgid, made)

    def _remove(self, address: int, tgid: int, block: Any) -> bool:
        """Remove a block from the table; False when it is there no more."""
        if self._blocks.read((address, tgid)) != block:
            return False
        self._blocks.remove((address, tgid))
        self._adjust(tgid, block, -1)
        return True

    def _adjust(self, tgid: int, block: Any, sign: int) -> None:
        """Note what the totals that the kernel keeps for --combined-only lack."""
        total = self.adjusted.setdefault((tgid, block.stack), [0, 0])
        total[0] += sign * block.size
        total[1] += sign

    # All

    def punch(self, holes: dict[int, list[tuple[int, int, int]]]) -> None:
        """Take what was unmapped out of the older blocks that are mappings.

        holes: {PID: [(ns, start, end)]}.
        """
        for tgid, blocks in self._mapped().items():
            extents: dict[int, tuple[int, ...]] = {
                address: (block.size, block.ns) for address, block in blocks.items()
            }
            for address, parts in punched(extents, holes.get(tgid, ())).items():
                block = blocks[address]
                if self._remove(address, tgid, block):
                    for begin, until in parts:
                        self.put(begin, tgid, block.replace(size=until - begin))

    def _mapped(self) -> dict[int, dict[int, Any]]:
        """{tgid: {address: block}} of the blocks that are mappings."""
        keys_of, values_of = self._blocks.key_layout, self._blocks.value_layout
        kinds, mapped = b"[%s]" % bytes(MAPPED), {}  # type: bytes, dict[int, dict[int, Any]]
        for _, keys, values in self._blocks.chunks():
            for place in finditer(kinds, values[values_of.offset("kind") :: values_of.size]):
                at = place.start()
                key = keys_of.unpack(keys[at * keys_of.size : (at + 1) * keys_of.size])
                value = values_of.unpack(values[at * values_of.size : (at + 1) * values_of.size])
                mapped.setdefault(key.tgid, {})[key.address] = value
        return mapped

    def since(self) -> Since:
        """{PID: since when it is traced, in ns of the monotonic clock} of the processes alive.

        The kernel is process 0.
        """
        return {0: 0} if self._targets is None else dict(self._targets.records())

    def _begun(self, since: Since, tgid: int) -> int | None:
        """Since when a process is traced that is not in `since`; None: it has ended."""
        begun: int | None = None if self._targets is None else self._targets.read(tgid)
        since[tgid] = begun
        return begun

    def groups(
        self,
        since: Since,
        newest: int,
        sampling: Sampling | None = None,
        with_blocks: bool = False,
        key_of: Callable[[int], int] | None = None,
    ) -> Groups:
        """The groups of blocks that are not newer than `newest`, and of those of ended processes.

        since: of `since`, which is updated.  with_blocks: list the blocks.
        key_of: from the stack of a block to that of its group.
        """
        groups: Groups = {}
        # bound outside the loop, which may see millions of blocks
        keys_of, values_of = self._blocks.key_layout, self._blocks.value_layout
        stale, mapped = self._stale.append, frozenset(MAPPED)
        for _, keys, values in self._blocks.chunks():
            for (address, tgid), (size, ns, stack, kind) in zip(
                keys_of.columns(keys, "address", "tgid"),
                values_of.columns(values, "size", "ns", "stack", "kind"),
            ):
                begun = since[tgid] if tgid in since else self._begun(since, tgid)
                if begun is None:  # it has ended
                    stale((address, tgid, ns))
                elif ns < begun:  # another process had the PID, or another program
                    stale((address, tgid, ns))
                    continue
                elif ns > newest:
                    continue
                if key_of:
                    stack = key_of(stack)
                group = groups.get((tgid, stack))
                if group is None:
                    group = groups[tgid, stack] = Group()
                if sampling and kind not in mapped:
                    group.add_sampled(size, sampling.probability(size))
                else:
                    group.bytes += size
                    group.count += 1
                if with_blocks:
                    group.blocks.append((address, size))
        return groups

    def find_stale(self, since: Since) -> None:
        """Find the blocks of processes that have ended, and of those that had their PIDs before."""
        keys_of, values_of = self._blocks.key_layout, self._blocks.value_layout
        for _, keys, values in self._blocks.chunks():
            for (address, tgid), (ns,) in zip(
                keys_of.columns(keys, "address", "tgid"), values_of.columns(values, "ns")
            ):
                begun = since[tgid] if tgid in since else self._begun(since, tgid)
                if begun is None or ns < begun:
                    self._stale.append((address, tgid, ns))

    def remove_stale(self) -> None:
        """Remove the blocks of the dead, and of those who had their PIDs before."""
        for address, tgid, ns in self._stale:
            block = self._blocks.read((address, tgid))
            if block is not None and block.ns == ns:  # else the address was allocated again
                self._blocks.remove((address, tgid))
        self._stale.clear()

    def keep_adjusted(self, pids: Iterable[int]) -> None:
        """Drop what was noted for the totals of other processes."""
        self.adjusted = {key: total for key, total in self.adjusted.items() if key[0] in pids}
