# SPDX-License-Identifier: GPL-2.0-or-later
"""A compiled object loaded into the kernel by bpf(2), and attached.

No bcc, no libbpf.  Closing the process detaches everything.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct

from ..errors import Error, Unavailable
from ..kernel import rlimit, syscalls
from .map import RINGBUF, Map
from .record import Layouts
from .syscall import (
    DENIED,
    ITER_CREATE,
    LINK_CREATE,
    PROG_LOAD,
    RAW_TRACEPOINT_OPEN,
    bpf,
    check_permission,
    denied,
    name_of,
    opened,
    permitted,
    raise_memlock,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from typing import Any

    from .object import Object

    Sizes = Mapping[str, Mapping[str, int]]

__all__ = ["KINDS", "Program", "Refused", "check"]

PROG_KPROBE, PROG_TRACEPOINT, PROG_PERF_EVENT, PROG_RAW_TRACEPOINT, PROG_TRACING = 2, 5, 7, 17, 26
# kind -> (program type, expected attach type)
KINDS = {
    "tp_btf": (PROG_TRACING, 23),
    "fentry": (PROG_TRACING, 24),
    "fexit": (PROG_TRACING, 25),
    "iter": (PROG_TRACING, 28),
    "raw_tp": (PROG_RAW_TRACEPOINT, 0),
    "tracepoint": (PROG_TRACEPOINT, 0),
    "kprobe": (PROG_KPROBE, 0),
    "kretprobe": (PROG_KPROBE, 0),
    "uprobe": (PROG_KPROBE, 0),
    "uretprobe": (PROG_KPROBE, 0),
    "uprobe_multi": (PROG_KPROBE, 48),
    "uretprobe_multi": (PROG_KPROBE, 48),
    "uprobe_session": (PROG_KPROBE, 57),
    "perf_event": (PROG_PERF_EVENT, 0),
}
_PERF_EVENT_LINK = 41  # BPF_PERF_EVENT
_LOG_SIZE = 1 << 20


class Refused(Unavailable):
    """The verifier rejects a program: its fault, or the fault of what the compiler made of it."""


class Program:
    """An Object's maps created, and its functions loaded as they are attached.

    obj: an object.Object.
    params: {name: value} for each PARAM of the text: a whole number, unsigned 64-bit, or a tuple of
      names of enumeration constants, the first of which that the kernel has is the value.
    maps: {name: {"max_entries" | "elements" | "value_size" | "flags": number}} to size a map for
      this run; elements: how many the array has that is the last member of the value.
    Attributes: params {name: number}; maps {name: Map}; layouts: the Layouts of structs by their
      names in C, of those that are in a map or that RECORD names; taken: what each point was
      attached to; refused: lines that say why an earlier candidate was not.
    Raises Unavailable when this kernel cannot have the program, NotPermitted, OSError.
    """

    def __init__(
        self, obj: Object, params: Mapping[str, Any] | None = None, maps: Sizes | None = None
    ) -> None:
        if obj.unusable:
            raise Unavailable(obj.unusable)
        self.name, self._object = obj.name, obj
        self.params = {name: self._value(value) for name, value in (params or {}).items()}
        self._reported = dict.fromkeys(obj.counters, 0)
        self.layouts = Layouts(obj.layouts)
        self.maps: dict[str, Map] = {}
        self.taken: list[str] = []
        self.refused: list[str] = []
        self._loaded: dict[tuple[str, str, str, int], int] = {}
        self._links: list[int] = []
        raise_memlock()
        rlimit.raise_open_files(
            len(obj.maps) + 2 * len(obj.points) + len(obj.probes), "BPF maps, programs and events"
        )
        for name, type_, key_size, value_size, max_entries, flags, key, value in obj.maps:
            size = (maps or {}).get(name, {})
            if "elements" in size:
                value_size = self.layouts[value].sized(size["elements"])
            try:
                self.maps[name] = Map(
                    name,
                    type_,
                    key_size,
                    size.get("value_size", value_size),
                    size.get("max_entries", max_entries),
                    size.get("flags", flags),
                    key,
                    value,
                    self.layouts,
                )
            except OSError as exc:
                self.close()
                if exc.errno in DENIED:
                    raise denied("create BPF maps", exc) from None
                raise Error(
                    f"cannot create the BPF map {name} of "
                    f"{size.get('max_entries', max_entries)} entries: {exc.strerror}"
                ) from None

    def _value(self, value: int | tuple[str, ...]) -> int:
        """The number of a parameter."""
        if not isinstance(value, tuple):
            return value
        for name in value:
            if name in self._object.constants:
                return self._object.constants[name]
        raise Unavailable(f"this kernel's BTF has no {' or '.join(value)}")

    def load(self, function: str, kind: str, target: str = "", cookie: int = 0) -> int:
        """The descriptor of a function loaded as a program of that kind.  Raises OSError,
        Unavailable, Refused.

        cookie: the value of PARAM(cookie), each of which makes a program of its own.
        """
        known = self._loaded.get((function, kind, target, cookie))
        if known is not None:
            return known
        if function not in self._object.functions:
            raise Unavailable(f"the program has no {function} on this kernel")
        compiled, map_places, param_places = self._object.functions[function]
        code = bytearray(compiled)
        descriptors = [self.maps[entry[0]].fd for entry in self._object.maps]
        for at, index in map_places:
            struct.pack_into("=I", code, at + 4, descriptors[index])
        for at, name in param_places:
            value = (cookie if name == "cookie" else self.params[name]) & (1 << 64) - 1
            struct.pack_into("=I", code, at + 4, value & 0xFFFFFFFF)
            struct.pack_into("=I", code, at + 12, value >> 32)
        type_, attach_type = KINDS[kind]
        btf_id = 0
        if type_ == PROG_TRACING:
            btf_id = self._object.ids.get(f"{kind}/{target}") or 0
            if not btf_id:
                what = "tracepoint" if kind == "tp_btf" else "function"
                raise Unavailable(f"this kernel's BTF has no such {what}")
        instructions = ctypes.create_string_buffer(bytes(code), len(code))
        licence = ctypes.create_string_buffer(b"GPL")

        def attr(log: ctypes.Array[ctypes.c_char] | None) -> bytes:
            return struct.pack(
                "=IIQQIIQII16sIIIIQIIQIII",
                type_,
                len(code) // 8,
                syscalls.address(instructions),
                syscalls.address(licence),
                1 if log else 0,
                len(log) if log else 0,
                syscalls.address(log) if log else 0,
                0,
                0,
                name_of(function),
                0,
                attach_type,
                0,
                0,
                0,
                0,
                0,
                0,
                0,
                btf_id,
                0,
            )

        try:
            fd, _ = bpf(PROG_LOAD, attr(None))
        except OSError as exc:
            # EPERM is never the verifier's: the process may not, or the kernel has no trampolines
            # for fentry and fexit.
            if exc.errno == errno.EPERM or exc.errno in DENIED and not permitted():
                raise
            log = ctypes.create_string_buffer(_LOG_SIZE)
            try:
                fd, _ = bpf(PROG_LOAD, attr(log))
            except OSError:  # perhaps another error, ENOSPC: the log is too long
                words = log.value.decode("utf-8", "replace").strip().splitlines()
                reason = [
                    w for w in words if w and not w.startswith(("processed ", "max_states", "; "))
                ][-1:]
                if not reason:
                    raise exc from None
                raise Refused(f"{exc.strerror} (verifier: {reason[0]})") from None
        self._loaded[function, kind, target, cookie] = fd
        return fd

    def attach(self, without: Collection[str] = ()) -> None:
        """Attach every point of the source to the first of its candidates that the kernel accepts.

        Candidates are "kind/target:function":
          tp_btf/NAME, fentry/FUNCTION, fexit/FUNCTION       typed by BTF
          raw_tp/NAME, tracepoint/CATEGORY:NAME
          kprobe/FUNCTION, kretprobe/FUNCTION
        A last candidate "none" lets a point be without.  The source's probes are loaded before; the
        command attaches them by their own methods, since their targets are known only at run time.
        without: names of functions that are not needed: points whose candidates run one of them are
        left out.
        Raises Unavailable (with every reason) or NotPermitted when a point has no candidate left.
        """
        self._choose(self._attach_one, without)

    def load_all(self) -> None:
        """Load all that `attach` would, and attach nothing.

        Raises as it does; Refused by the verifier.
        """
        self._choose(lambda kind, target, function: self.load(function, kind, target))

    def _choose(
        self, use: Callable[[str, str, str], object], without: Collection[str] = ()
    ) -> None:
        """`use` (kind, target, function) of each probe, and of each point's first candidate for
        which it works.
        """
        for probe in self._object.probes:
            kind, _, function = probe.partition(":")
            try:
                self.load(function, kind)
            except (OSError, Unavailable) as exc:
                raise self._failure([(kind, exc)]) from None
        for point in self._object.points:
            if point[0].rpartition(":")[2] in without:
                continue
            failed: list[tuple[str, Exception]] = []
            for candidate in point:
                where, _, function = candidate.rpartition(":")
                if candidate == "none":
                    if any(_is_denied(exc) for _, exc in failed):
                        check_permission()
                    break
                kind, _, target = where.partition("/")
                try:
                    use(kind, target, function)
                except (OSError, Unavailable) as exc:
                    failed.append((where, exc))
                    continue
                self.taken.append(where)
                break
            else:
                raise self._failure(failed)
            self.refused += map(_reason, failed)

    def _failure(self, failed: list[tuple[str, Exception]]) -> Unavailable:
        """The exception for a point whose candidates have all failed: [(candidate, exception)]."""
        if any(_is_denied(exc) for _, exc in failed):
            check_permission()
        kind = Refused if any(isinstance(exc, Refused) for _, exc in failed) else Unavailable
        return kind(f"cannot attach {self.name}: {'; '.join(map(_reason, failed))}")

    def _attach_one(self, kind: str, target: str, function: str) -> None:
        fd = self.load(function, kind, target)
        name = ctypes.create_string_buffer(target.encode())
        if kind in ("tp_btf", "fentry", "fexit"):
            link = bpf(RAW_TRACEPOINT_OPEN, struct.pack("=QI", 0, fd))[0]
        elif kind == "raw_tp":
            link = bpf(RAW_TRACEPOINT_OPEN, struct.pack("=QI", syscalls.address(name), fd))[0]
        elif kind == "tracepoint":
            from ..perf import event as perf_event
            from ..perf import tracefs

            number = opened(tracefs.tracepoint_id, *target.split(":", 1))
            link = self._event(fd, perf_event.TYPE_TRACEPOINT, number, cpu=0)
        elif kind in ("kprobe", "kretprobe"):
            from ..perf import event_source

            pmu = opened(event_source.pmu_type, "kprobe")
            config = opened(event_source.retprobe_bit, "kprobe") if kind == "kretprobe" else 0
            link = self._event(fd, pmu, config, cpu=0, config1=syscalls.address(name))
        else:
            raise ValueError(f"{kind} is attached by its own method")
        self._links.append(link)

    @staticmethod
    def _event(program: int, *arguments: Any, **options: Any) -> int:
        """The descriptor of an event, as perf_event.open_event makes it, that runs a program."""
        from ..perf import event as perf_event

        event = opened(perf_event.open_event, *arguments, **options)
        try:
            perf_event.attach(event, program)
        except OSError:
            os.close(event)
            raise
        return event

    def iterate(self, function: str, target: str) -> bytes:
        """The bytes that a function writes with bpf_seq_write() for each object of a kind, such as
        "task" (Linux 5.8).

        Raises Unavailable, NotPermitted.
        """
        try:
            program = self.load(function, "iter", target)
            link, _ = bpf(LINK_CREATE, struct.pack("=IIII", program, 0, KINDS["iter"][1], 0))
            try:
                with open(bpf(ITER_CREATE, struct.pack("=II", link, 0))[0], "rb", buffering=0) as f:
                    return f.readall()
            finally:
                os.close(link)
        except OSError as exc:
            if exc.errno in DENIED and not permitted():
                raise denied("load BPF programs", exc) from None
            raise Unavailable(f"cannot iterate over each {target}: {exc.strerror}") from None

    def attach_uprobe(
        self,
        function: str,
        path: str,
        offset: int,
        pid: int = -1,
        returning: bool = False,
        cookie: int = 0,
    ) -> None:
        """Attach to a file offset of an executable or library, in one process or (pid -1) in all.

        cookie: what bpf_get_attach_cookie gives the program (Linux 5.15), or what PARAM(cookie) is
          where the function reads that.
        """
        from ..perf import event as perf_event
        from ..perf import event_source

        name = ctypes.create_string_buffer(os.fsencode(path))
        kind = "uretprobe" if returning else "uprobe"
        pmu = opened(event_source.pmu_type, "uprobe")
        config = opened(event_source.retprobe_bit, "uprobe") if returning else 0
        attributes = pmu, config, pid, 0 if pid < 0 else -1, syscalls.address(name), offset
        constant = any(name == "cookie" for _, name in self._object.functions[function][2])
        program = self.load(function, kind, cookie=cookie if constant else 0)
        if not cookie or constant:
            self._links.append(self._event(program, *attributes))
            return
        event = opened(perf_event.open_event, *attributes)
        try:
            self._links.append(
                bpf(
                    LINK_CREATE, struct.pack("=IIIIQ", program, event, _PERF_EVENT_LINK, 0, cookie)
                )[0]
            )
            perf_event.enable(event)
        finally:
            os.close(event)  # the link holds it

    def attach_uprobes(
        self, kind: str, function: str, path: str, places: Mapping[int, int], pid: int = 0
    ) -> None:
        """Attach to many functions of an executable or library at once, in one process or (0) in
        all.

        kind: "uprobe_multi" or "uretprobe_multi" (Linux 6.6), or "uprobe_session"
        (6.13): at each entry, and at the return when the program returned 0 at the entry.
        places: {file offset: cookie}.  Raises OSError.
        """
        name = ctypes.create_string_buffer(os.fsencode(path))
        offsets = ctypes.create_string_buffer(struct.pack(f"={len(places)}Q", *places))
        cookies = ctypes.create_string_buffer(struct.pack(f"={len(places)}Q", *places.values()))
        self._links.append(
            bpf(
                LINK_CREATE,
                struct.pack(
                    "=IIIIQQQQIII",
                    self.load(function, kind),
                    0,
                    KINDS[kind][1],
                    0,
                    syscalls.address(name),
                    syscalls.address(offsets),
                    0,
                    syscalls.address(cookies),
                    len(places),
                    kind == "uretprobe_multi",
                    pid,
                ),
            )[0]
        )

    def attach_software(
        self, function: str, config: int, cpu: int, period: int = 0, frequency: int = 0
    ) -> None:
        """Attach to a software event (PERF_COUNT_SW_*: 0 is the CPU clock) of one CPU."""
        from ..perf import event as perf_event

        self._links.append(
            self._event(
                self.load(function, "perf_event"),
                perf_event.TYPE_SOFTWARE,
                config,
                -1,
                cpu,
                period=period,
                frequency=frequency,
            )
        )

    def constants(self) -> dict[str, int]:
        """{name: value} of all the enumeration constants that the source names and the kernel
        has.
        """
        return dict(self._object.constants)

    def counters(self) -> dict[str, int]:
        """{name: total since the start} of what the text counted with COUNT: losses, full maps."""
        if not self._object.counters:
            return {}
        values = dict(self.maps["counters"].records())
        return {name: values[i] for i, name in enumerate(self._object.counters)}

    def lost(self) -> dict[str, int]:
        """{name: growth since the last call} of what counters() returns."""
        now, before = self.counters(), self._reported
        self._reported = now
        return {name: now[name] - before[name] for name in now}

    def close(self) -> None:
        """Detach, and free the programs and maps."""
        for fd in self._links + list(self._loaded.values()) + [m.fd for m in self.maps.values()]:
            os.close(fd)
        self._links, self._loaded, self.maps = [], {}, {}


def _is_denied(exc: Exception) -> bool:
    return isinstance(exc, OSError) and exc.errno in DENIED


def _reason(failed: tuple[str, Exception]) -> str:
    where, exc = failed
    return f"{where}: {getattr(exc, 'strerror', None) or exc}"


def check(obj: Object) -> list[str]:
    """Load the functions of an Object as Program.attach would choose them, and attach nothing.

    Every parameter is 1, so that the verifier sees what the options switch on.
    Returns lines that say why an earlier candidate was not taken.  Raises as Program and its attach
    do: Refused by the verifier, Unavailable, NotPermitted.
    """
    params = {name: 1 for _, _, places in obj.functions.values() for _, name in places}
    page = os.sysconf("SC_PAGE_SIZE")
    program = Program(
        obj,
        params,
        {
            name: {"max_entries": max(entries, page if type_ == RINGBUF else 1)}
            for name, type_, _, _, entries, *_ in obj.maps
        },
    )
    try:
        program.load_all()
        return program.refused
    finally:
        program.close()
