# SPDX-License-Identifier: GPL-2.0-or-later
"""Return addresses from saved registers and a copy of the top of a stack, without frame pointers.

Frames are unwound by the call frame information of the mapped files: see
eh_frame.  A frame in code without it (compiled at run time, written in
assembly) is unwound by its frame pointer, and the walk goes on from there.
Follows the System V ABI for AMD64, 3.2.2, and the AAPCS64 and aadwarf64 of
arm64: preserved registers, frame records, signed return addresses.

Files and stack belong to a traced process and are hostile: frames, caches and
the time for a stack and for a process are bounded.  What is wrong ends the
walk: `unwind` returns the frames found up to there, with the reason.
"""

from __future__ import annotations

import enum
import time
from bisect import bisect_right
from typing import NamedTuple

from .dwarf import evaluate
from .machine import MACHINE, WORD

TYPE_CHECKING = False  # mypy takes it for true
if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from ..kernel.maps import Mapping
    from .call_frame import Rule, Rules
    from .eh_frame import Table
    from .machine import Machine

__all__ = ["End", "Walk", "AddressSpace", "unwind", "address_mask"]

MOST_FRAMES = 127  # as many as the kernel's own walk records: PERF_MAX_STACK_DEPTH
# Seconds of CPU time: on a busy machine a walk must not end early.
_STACK_SECONDS = 0.25  # to read CFI for one stack; a stack whose rows are known takes microseconds
_PROCESS_SECONDS = 20.0  # to read CFI for one process, in all
_MOST_ROWS = 1 << 13  # kept per process


class End(enum.Enum):
    """Why a walk ended."""

    OUTERMOST = "at the outermost frame"
    DEPTH = "at the largest number of frames"
    SHORT = "at the end of the copied part of the stack"
    NO_CODE = "at a return address outside of executable memory"
    NO_TABLE = "in code without frame information or frame pointer"
    BAD_TABLE = "at malformed frame information"
    NO_REGISTER = "at a frame that needs a register which is not known"
    RETURN_PROBE = "at a return address that a uretprobe has replaced"
    TIME = "because reading frame information took too long"


class Walk(NamedTuple):
    """The frames of a stack.

    addresses: the instruction pointer, then the return addresses, innermost
    first; end: why there are no more.  The frame at which the walk ended is the last one.
    """

    addresses: tuple[int, ...]
    end: End


def address_mask(highest: int) -> int:
    """The bits of a return address that are not a pointer authentication code (arm64).

    highest: an address at the top of the user address space, such as the end of
    a process's [stack].  The code lies above the virtual address size (36, 39,
    42, 47, 48 or 52 bits): ptrauth_user_pac_mask() in arch/arm64/include/asm/pointer_auth.h.
    """
    return (1 << max(highest.bit_length(), 36)) - 1


class _Ended(ValueError):
    """A frame cannot be unwound.  end: why."""

    def __init__(self, end: End) -> None:
        super().__init__(end.value)
        self.end = end


class _Row(NamedTuple):
    """Rules prepared for `_Walker.by_row`: what most frames need is a register, an offset and a few
    words.

    lowest: the lowest of the offsets in `saved`, [(register, offset from the
    CFA)]; link: whether the return address is recovered; general: set when that is not all.
    """

    register: int
    offset: int
    lowest: int
    saved: tuple[tuple[int, int], ...]
    link: bool
    general: Rules | None


def _row(table: Table, address: int) -> _Row | End:
    """What unwinds a frame at a virtual address of a file.

    End.NO_TABLE where no function is described.
    """
    try:
        rules = table.rules(address)
    except ValueError:
        return End.BAD_TABLE
    return End.NO_TABLE if rules is None else _prepared(rules, table.machine)


def _prepared(rules: Rules, machine: Machine) -> _Row | End:
    """The row of rules of a frame, or End.OUTERMOST."""
    own = {
        register: rule
        for register, rule in rules.registers.items()
        if register < machine.registers and rule.kind != "same_value"
    }
    link = own.get(rules.link)
    if link is not None and link.kind == "undefined":
        return End.OUTERMOST
    if link is None and not machine.lr:
        return End.BAD_TABLE
    simple = (
        not rules.signal
        and rules.link == machine.link
        and machine.stack not in own
        and all(rule.kind == "offset" and not rule.value & 7 for rule in own.values())
    )
    if not simple or rules.register is None:
        return _Row(0, 0, 0, (), link is not None, rules._replace(registers=own))
    saved = tuple((register, rule.value) for register, rule in own.items())
    return _Row(
        rules.register,
        rules.offset,
        min([0] + [offset for _, offset in saved]),
        saved,
        link is not None,
        None,
    )


# Processes


class AddressSpace:
    """The executable mappings of a process, and what unwinds the frames at the places met so far.

    table: a function that returns the Table of a file by its identity, or None
    when there is none; of what is no file, by its name, such as "[vdso]".  It must
    not raise; its calls are charged to the process's time.
    """

    def __init__(self, table: Callable[[Hashable], Table | None]) -> None:
        self._table = table
        self._mappings: Sequence[Mapping] = ()
        self._starts: list[int] = []
        self._trampolines: set[int] = set()
        self._left, self._stack_left = _PROCESS_SECONDS, _STACK_SECONDS
        self.rows: dict[int, _Row | End] = {}

    def update(self, mappings: Sequence[Mapping]) -> None:
        """Take the mappings as kernel.maps.mappings returns them, after each change."""
        old, self._mappings = self._mappings, sorted(row for row in mappings if row.executable)
        self._starts = [row.start for row in self._mappings]
        # uprobe_get_trampoline_vaddr() in kernel/events/uprobes.c: a uretprobe puts this in the
        # return address's place.
        self._trampolines = {row.start for row in self._mappings if row.path == "[uprobes]"}
        if set(old) <= set(self._mappings):  # a library has been loaded
            self.rows = {
                address: row for address, row in self.rows.items() if row is not End.NO_CODE
            }
        else:
            self.rows = {}

    def begin(self) -> None:
        """A walk begins: its time starts."""
        self._stack_left = _STACK_SECONDS

    def row(self, address: int) -> _Row | End:
        """What unwinds a frame at an address.

        End.TIME when the walk or the process has used up its time.
        """
        if self._stack_left <= 0 or self._left <= 0:
            return End.TIME
        begin = time.thread_time()
        place = self._find(address)
        loaded = time.thread_time()  # a file is opened for all the stacks that come
        found = place if isinstance(place, End) else _row(*place)
        now = time.thread_time()
        self._left -= now - begin
        self._stack_left -= now - loaded
        if len(self.rows) >= _MOST_ROWS:
            self.rows.clear()
        self.rows[address] = found
        return found

    def _find(self, address: int) -> tuple[Table, int] | End:
        """The Table of the file that is mapped at an address, and the virtual address there; or why
        there is none.
        """
        i = bisect_right(self._starts, address) - 1
        if i < 0 or address >= self._mappings[i].end:
            return End.RETURN_PROBE if address + 1 in self._trampolines else End.NO_CODE
        row = self._mappings[i]
        named = row.identity if row.path.startswith("/") else row.path
        table = self._table(named) if named else None
        virtual = table.virtual(address - row.start + row.offset) if table is not None else None
        return End.NO_TABLE if table is None or virtual is None else (table, virtual)


# Stacks


class _Walker:
    """A frame of a stack: its registers, and the copy of the stack.

    low: an address at or below the frame's stack pointer, which is not known
    behind a frame record of arm64; call: whether the instruction pointer is a return address.
    """

    def __init__(
        self,
        machine: Machine,
        ip: int,
        sp: int,
        saved: Sequence[int],
        stack: bytes | memoryview,
        call: bool,
    ) -> None:
        self.machine, self.call, self.low, self.base = machine, call, sp, sp
        # on arm64 `saved` has the link register
        self.values = {machine.link: ip, machine.stack: sp}
        self.values.update(zip(machine.saved, saved))
        self.words = memoryview(stack)[: len(stack) & ~7].cast("Q")
        self.innermost = True

    def word(self, address: int) -> int:
        """The word at an address of the stack.  Raises _Ended."""
        at = address - self.base >> 3
        if not 0 <= at < len(self.words):
            raise _Ended(End.SHORT)
        return self.words[at]

    def register(self, number: int) -> int:
        """The value of a register in this frame.  Raises _Ended."""
        if number not in self.values:
            raise _Ended(End.NO_REGISTER)
        return self.values[number]

    def by_row(self, row: _Row) -> int:
        """Unwind the frame by its rules; returns the return address.  Raises _Ended."""
        if row.general is not None:
            return self.by_rules(row.general)
        register, offset, lowest, saved, link, _ = row
        values = self.values
        cfa = values.get(register)
        if cfa is None:
            if (
                register == self.machine.stack
            ):  # behind a frame record; frames of this ABI have them
                return self.by_frame_pointer()
            raise _Ended(End.NO_REGISTER)
        cfa += offset
        self._check(cfa, link)
        words, at = self.words, cfa - self.base
        if at + lowest < 0:
            raise _Ended(End.SHORT)
        try:
            for number, offset in saved:
                values[number] = words[at + offset >> 3]
        except IndexError:
            raise _Ended(End.SHORT) from None
        values[self.machine.stack] = self.low = cfa
        self.call, self.innermost = True, False
        return values[self.machine.link]

    def _check(self, cfa: int, link: bool) -> None:
        """A frame is larger than nothing, except a leaf's; only there is the return address still
        in its register.
        """
        if cfa & 7 or cfa < self.low or not link and not self.innermost or cfa == self.low and link:
            raise _Ended(End.BAD_TABLE)

    def by_rules(self, rules: Rules) -> int:
        """Unwind the frame by rules of any kind."""
        if rules.register is not None:
            cfa = self.register(rules.register) + rules.offset & WORD
        else:
            cfa = evaluate(rules.expression, None, self.register, self.word)
        if not rules.signal:  # one on a stack of its own interrupts a frame on another
            self._check(cfa, rules.link in rules.registers)
        found = {
            number: self._recover(rule, cfa)
            for number, rule in rules.registers.items()
            if rule.kind != "undefined"
        }
        for number in rules.registers:
            self.values.pop(number, None)
        self.values[self.machine.stack] = cfa
        self.values.update(found)
        self.low = self.values[self.machine.stack]
        self.call, self.innermost = not rules.signal, rules.signal
        return self.register(rules.link)

    def _recover(self, rule: Rule, cfa: int) -> int:
        """The value of a register in the caller."""
        if rule.kind == "offset":
            return self.word(cfa + rule.value)
        if rule.kind == "val_offset":
            return cfa + rule.value & WORD
        if rule.kind == "register":
            return self.register(rule.value)
        result = evaluate(rule.block, cfa, self.register, self.word)
        return self.word(result) if rule.kind == "expression" else result

    def by_frame_pointer(self) -> int:
        """Unwind a frame without CFI.

        Both psABIs keep the caller's frame pointer and the return address there.
        """
        record = self.values.get(self.machine.frame, 0)
        at = record - self.base >> 3
        if record & 7 or record < self.low or not 0 <= at < len(self.words) - 1:
            raise _Ended(End.NO_TABLE)
        # What the function has done to other registers is not known.
        self.values = {self.machine.frame: self.words[at], self.machine.link: self.words[at + 1]}
        self.low = record + 16
        if not self.machine.lr:  # arm64: a frame record can be anywhere in its frame
            self.values[self.machine.stack] = self.low
        self.call, self.innermost = True, False
        return self.words[at + 1]


def unwind(
    space: AddressSpace,
    ip: int,
    sp: int,
    saved: Sequence[int],
    stack: bytes | memoryview,
    call: bool = True,
    mask: int = WORD,
    machine: Machine = MACHINE,
    limit: int = MOST_FRAMES,
) -> Walk:
    """The frames of a stack.

    ip, sp, saved: the instruction pointer, the stack pointer and the registers
    Machine.saved; stack: a copy of what is at the stack pointer, any buffer;
    call: whether `ip` is a return address, as behind a return, and not that of
    the next instruction; mask: see address_mask.
    """
    walker = _Walker(machine, ip & mask, sp, saved, stack, call)
    found, rows = [ip & mask], space.rows
    space.begin()
    while True:
        address = found[-1] - walker.call
        row = rows.get(address)
        if row is None:
            row = space.row(address)
        if isinstance(row, End) and row is not End.NO_TABLE:
            no_frame = row in (End.NO_CODE, End.RETURN_PROBE) and len(found) > 1
            return Walk(tuple(found[:-1] if no_frame else found), row)
        if len(found) >= limit:
            return Walk(tuple(found), End.DEPTH)
        try:
            address = (
                walker.by_frame_pointer() if isinstance(row, End) else walker.by_row(row)
            ) & mask
        except _Ended as exc:
            return Walk(tuple(found), exc.end)
        except ValueError:
            return Walk(tuple(found), End.BAD_TABLE)
        if not address:
            return Walk(tuple(found), End.OUTERMOST)
        found.append(address)
