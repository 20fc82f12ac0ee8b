# SPDX-License-Identifier: GPL-2.0-or-later
"""The clock of the CPU that runs this code, timed by additions; for guests without counters.

An addition of two registers takes one cycle on every x86-64 and arm64 core that has a pipeline, and
a chain of them, each of which needs the sum of the one before, cannot run faster.  The additions
are register to register: recent cores resolve those of a constant while they rename registers.

A short and a long chain are timed in turn.  The difference of the two best times is free of the
cost of the call and of reading the time.  What delays a run (an interrupt, a busy hyperthread, the
hypervisor) only makes it longer, so that the best of many is the clock.  It is the clock of a core
that is busy, with the loop, at the moment of the measurement.

The code is written to anonymous memory that then becomes executable, and is never both writable and
executable.  arm64 needs no flush of its own: the kernel makes the caches coherent when a page
becomes executable (__sync_icache_dcache(), arch/arm64/mm/flush.c).
"""

from __future__ import annotations

import ctypes
import mmap
import os
import time

from ..errors import Unavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = [
    "CHAIN",
    "SHORT",
    "LONG",
    "PAIR_NS",
    "Routine",
    "additions",
    "rate",
    "translated",
    "Timer",
]

CHAIN = 1000  # additions from one jump back to the next: the jump's own cycle is 0.1 % at most
SHORT, LONG = 32, 96  # rounds of the chain: 8 and 25 us at 4 GHz
PAIR_NS = 45000  # about what a short and a long run take, together
_MEGAHERTZ = 200, 8000  # no CPU that runs Linux has a clock outside
_AGREEING, _TOLERANCE = 3, 0.02  # runs that must agree, and how far apart they may be
_OVERHEAD = 0.03  # of a long run: the call and reading the time, 0.3 of 25 us
_READ_TSC = b"\x0f\x31\x48\xc1\xe2\x20\x48\x09\xd0\xc3"  # rdtsc; shl rdx, 32; or rax, rdx; ret
_FRESH_NS = 50000  # new code runs within this: 1.4 us on a CPU, 700 us where it is translated


def _x86_64() -> bytes:
    # add rax, rdx; ...; dec rdi
    body = b"\x48\x01\xd0" * CHAIN + b"\x48\xff\xcf"
    back = -(len(body) + 6)
    # xor eax, eax; mov edx, 1; the body; jnz to it; ret
    begin, jump = b"\x31\xc0\xba\x01\x00\x00\x00", b"\x0f\x85"
    return begin + body + jump + back.to_bytes(4, "little", signed=True) + b"\xc3"


def _arm64() -> bytes:
    words = [0xD2800001, 0xD2800022]  # mov x1, #0; mov x2, #1
    words += [0x8B020021] * CHAIN  # add x1, x1, x2
    words.append(0xF1000400)  # subs x0, x0, #1
    words.append(0x54000001 | (-(CHAIN + 1) & 0x7FFFF) << 5)  # b.ne to the first addition
    words += [0xAA0103E0, 0xD65F03C0]  # mov x0, x1; ret
    return b"".join(word.to_bytes(4, "little") for word in words)


_ADDITIONS = {"x86_64": _x86_64, "aarch64": _arm64}


def additions(machine: str | None = None) -> bytes:
    """The machine code of a function that runs the chain n times and returns the sum, CHAIN * n.

    machine: an architecture as uname(2) names it; by default, this one.
    Raises Unavailable for an architecture that is not known here.
    """
    encode = _ADDITIONS.get(machine or os.uname().machine)
    if encode is None or ctypes.sizeof(ctypes.c_void_p) != 8:
        raise Unavailable("no loop is known for this architecture")
    return encode()


class Routine:
    """Machine code in memory of its own.

    call: the code as a function of a 64-bit number that returns another.
    """

    def __init__(self, machine_code: bytes) -> None:
        """Raises Unavailable where memory must not become executable."""
        self._memory = mmap.mmap(
            -1,
            len(machine_code),
            flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS,
            prot=mmap.PROT_READ | mmap.PROT_WRITE,
        )
        self._memory.write(machine_code)
        address = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        _make_executable(address, len(machine_code))
        # Unlike CFUNCTYPE, it keeps the interpreter's lock, and so costs less.
        function = ctypes.PYFUNCTYPE(ctypes.c_uint64, ctypes.c_uint64)
        self.call: Callable[[int], int] = function(address)

    def time(self, rounds: int) -> int:
        """The nanoseconds that a call with this number takes now."""
        begin = time.perf_counter_ns()
        self.call(rounds)
        return time.perf_counter_ns() - begin


def _make_executable(address: int, size: int) -> None:
    """Make memory readable and executable, and no longer writable.  Raises Unavailable."""
    mprotect = ctypes.CDLL(None, use_errno=True).mprotect
    mprotect.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    if mprotect(address, size, mmap.PROT_READ | mmap.PROT_EXEC):
        reason = os.strerror(ctypes.get_errno())
        raise Unavailable(
            f"memory must not become executable ({reason}), by SELinux, seccomp or prctl"
        )


def rate(runs: Sequence[tuple[int, int]]) -> float | None:
    """MHz by [(ns of SHORT rounds, ns of LONG rounds)]; None where that is not known.

    It is not where the best runs of a length differ by more than 2 %, and where the long run alone
    would give another clock than the difference by more than the call costs: then even the best
    were delayed.
    """
    if len(runs) < _AGREEING:
        return None
    short, long = (sorted(times) for times in zip(*runs))
    for times in short, long:
        if times[_AGREEING - 1] > times[0] * (1 + _TOLERANCE):
            return None
    if long[0] <= short[0]:
        return None
    mhz = CHAIN * (LONG - SHORT) * 1e3 / (long[0] - short[0])
    whole = CHAIN * LONG * 1e3 / long[0]
    if not 1 - _OVERHEAD <= whole / mhz <= 1:
        return None
    return mhz if _MEGAHERTZ[0] <= mhz <= _MEGAHERTZ[1] else None


def translated(first_ns: Callable[[], int], tries: int = 8) -> bool:
    """Whether code is translated before it runs: an emulated CPU, which has no clock.

    A translator needs some hundred microseconds for the chain, as often as it is new; a CPU runs
    it at once.  Translated additions can take one cycle of the host's each, and so look as a
    CPU's do.

    first_ns: the time of one round of a new chain.  A CPU that is interrupted needs another try.
    """
    return all(first_ns() > _FRESH_NS for _ in range(tries))


class Timer:
    """Measures the clock of a CPU by running on it.

    translated: whether the CPUs are emulated; then there is no clock to be measured.
    has_tsc: whether this architecture has a TSC.  chain: the Routine of additions().
    """

    def __init__(self) -> None:
        """Raises Unavailable, as additions() and Routine do."""
        code = additions()
        self.has_tsc = os.uname().machine == "x86_64"
        self.chain = Routine(code)
        self._read_tsc = Routine(_READ_TSC) if self.has_tsc else None
        self.translated = translated(lambda: Routine(code).time(1))

    def measure(self, cpu: int, pairs: int) -> float | None:
        """MHz of a CPU now, by short and long runs; None where it is not known.

        That is also where this process may not run on the CPU: it is offline, or outside of the
        cpuset.  pairs: how many of each.
        """
        if self.translated:
            return None
        before = os.sched_getaffinity(0)
        try:
            os.sched_setaffinity(0, {cpu})
        except OSError:
            return None
        try:
            # The second try is for a clock that changed during the first.
            return self._measure(pairs) or self._measure(pairs)
        finally:
            try:
                os.sched_setaffinity(0, before)
            except OSError:  # these CPUs went offline meanwhile; the kernel has chosen others
                pass

    def instant(self) -> tuple[int, int | None]:
        """(ns of CLOCK_MONOTONIC, TSC or None), read together within 1 us unless interrupted."""
        best: tuple[int, int, int | None] | None = None
        for _ in range(5):
            begin = time.monotonic_ns()
            tsc = self._read_tsc.call(0) if self._read_tsc else None
            took = time.monotonic_ns() - begin
            if best is None or took < best[0]:
                best = took, begin + took // 2, tsc
        assert best is not None
        return best[1:]

    def _measure(self, pairs: int) -> float | None:
        run = self.chain.time
        return rate([(run(SHORT), run(LONG)) for _ in range(pairs)])
