# SPDX-License-Identifier: GPL-2.0-or-later
"""Maps and ring buffers of a loaded program, read as records.

Keys and values are records (see `record`) or bytes in the machine's own layout.
Follows, for the ring buffer, kernel/bpf/ringbuf.c.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct

from ..kernel import syscalls
from .syscall import (
    BTF_LOAD,
    MAP_CREATE,
    MAP_DELETE,
    MAP_DELETE_BATCH,
    MAP_LOOKUP,
    MAP_LOOKUP_BATCH,
    MAP_NEXT_KEY,
    MAP_UPDATE,
    bpf,
    grace_period,
    name_of,
    possible_cpus,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from .program import Program
    from .record import Layout, Layouts

__all__ = ["Map", "RingBuffer", "Banks", "NOEXIST", "RINGBUF"]

NOEXIST = 1  # a flag of Map.update: only when there is no such key

HASH, ARRAY, PERCPU_HASH, PERCPU_ARRAY, STACK_TRACE, LRU_HASH, LRU_PERCPU_HASH = (
    1,
    2,
    5,
    6,
    7,
    9,
    10,
)
PERF_EVENT_ARRAY, RINGBUF, TASK_STORAGE = 4, 27, 29
_LOCAL_STORAGE = (24, 28, TASK_STORAGE, 32)  # of sockets, inodes, tasks, cgroups
_PERCPU = (PERCPU_HASH, PERCPU_ARRAY, LRU_PERCPU_HASH, 21)
_NO_KEY_MAPS = (ARRAY, PERCPU_ARRAY)


def _storage_btf(value_size: int) -> int:
    """The descriptor of a BTF with `int` as type 1 and an array of value_size bytes as type 3."""
    strings = b"\0int\0char\0"
    types = struct.pack("=IIII", 1, 1 << 24, 4, 1 << 24 | 32)  # int, signed, 32 bits
    types += struct.pack("=IIII", 5, 1 << 24, 1, 8)  # char, 8 bits
    # char[value_size], indexed by int
    types += struct.pack("=IIIIII", 0, 3 << 24, 0, 2, 1, value_size)
    blob = (
        struct.pack("=HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(strings))
        + types
        + strings
    )
    data = ctypes.create_string_buffer(blob, len(blob))
    return bpf(BTF_LOAD, struct.pack("=QQIII", syscalls.address(data), 0, len(blob), 0, 0))[0]


class Map:
    """One map.  name, type, key_size, value_size (of one CPU's value), max_entries, fd.

    read, write, clear, remove and records have keys and values as records or numbers, the other
    methods as bytes.
    """

    def __init__(
        self,
        name: str,
        type_: int,
        key_size: int,
        value_size: int,
        max_entries: int,
        flags: int = 0,
        key: str = "-",
        value: str = "-",
        layouts: Layouts | None = None,
    ) -> None:
        """key, value: names of types in `layouts`, the program's Layouts."""
        self.name, self.type, self.key_size = name, type_, key_size
        self._key_type, self._value_type, self._layouts = key, value, layouts
        self.value_size, self.max_entries = value_size, max_entries
        if type_ == PERF_EVENT_ARRAY:
            self.max_entries = max_entries = possible_cpus()
        self._stride = value_size
        if type_ in _PERCPU:
            self._stride = (value_size + 7 & ~7) * possible_cpus()
        btf = (0, 0, 0)
        if type_ in _LOCAL_STORAGE:
            btf = _storage_btf(value_size), 1, 3
            max_entries, flags = 0, 1  # BPF_F_NO_PREALLOC is mandatory
        try:
            self.fd, _ = bpf(
                MAP_CREATE,
                struct.pack(
                    "=IIIIIII16sIIII",
                    type_,
                    key_size,
                    value_size,
                    max_entries,
                    flags,
                    0,
                    0,
                    name_of(name),
                    0,
                    *btf,
                ),
            )
        finally:
            if btf[0]:
                os.close(btf[0])

    @property
    def key_layout(self) -> Layout:
        """The Layout of the keys."""
        assert self._layouts is not None, self.name
        return self._layouts[self._key_type]

    @property
    def value_layout(self) -> Layout:
        """The Layout of the values."""
        assert self._layouts is not None, self.name
        return self._layouts[self._value_type]

    def _key(self, key: Any) -> bytes:
        """The bytes of a key: a number, or a tuple of a struct's members, such as a record."""
        return self.key_layout.pack(*(key if isinstance(key, tuple) else (key,)))

    def read(self, key: Any) -> Any:
        """The value of a key, or None.  Not of a per-CPU map."""
        data = self.lookup(self._key(key))
        return None if data is None else self.value_layout.unpack(data)

    def read_per_cpu(self, key: Any) -> list[Any] | None:
        """The list of each CPU's value of a key of a per-CPU map, or None."""
        data = self.lookup(self._key(key))
        return (
            None
            if data is None
            else [self.value_layout.unpack(value) for value in self.per_cpu(data)]
        )

    def write(self, key: Any, *values: int | bytes, flags: int = 0) -> None:
        """Set the value of a key: a number, or a struct's members.

        Raises OSError (E2BIG: the map is full).
        """
        self.update(self._key(key), self.value_layout.pack(*values), flags)

    def clear(self, key: Any) -> None:
        """Set the value of a key to zeros."""
        self.update(self._key(key), bytes(self._stride))

    def remove(self, key: Any) -> bool:
        """Remove a key; False when it was not there."""
        return self.delete(self._key(key))

    def records(self) -> list[tuple[Any, Any]]:
        """[(key, value)] of a hash or array map, not of a per-CPU map."""
        key, value = self.key_layout, self.value_layout
        return [(key.unpack(k), value.unpack(v)) for k, v in self.items()]

    def lookup(self, key: bytes) -> bytes | None:
        """The value of a key (all CPUs' values end to end for a per-CPU map), or None."""
        name = ctypes.create_string_buffer(key, self.key_size)
        value = ctypes.create_string_buffer(self._stride)
        try:
            attr = struct.pack(
                "=IIQQQ", self.fd, 0, syscalls.address(name), syscalls.address(value), 0
            )
            bpf(MAP_LOOKUP, attr)
        except OSError as exc:
            if exc.errno == errno.ENOENT:
                return None
            raise
        return value.raw

    def update(self, key: bytes, value: bytes, flags: int = 0) -> None:
        """Set the value of a key.  Raises OSError (E2BIG: the map is full)."""
        name = ctypes.create_string_buffer(key, self.key_size)
        content = ctypes.create_string_buffer(value, self._stride)
        where = syscalls.address(name), syscalls.address(content)
        bpf(MAP_UPDATE, struct.pack("=IIQQQ", self.fd, 0, *where, flags))

    def delete(self, key: bytes) -> bool:
        """Remove a key; False when it was not there."""
        name = ctypes.create_string_buffer(key, self.key_size)
        try:
            bpf(MAP_DELETE, struct.pack("=IIQ", self.fd, 0, syscalls.address(name)))
        except OSError as exc:
            if exc.errno == errno.ENOENT:
                return False
            raise
        return True

    def remove_all(self, keys: bytes) -> None:
        """Remove the keys that lie end to end, by one call (Linux 5.6) or else one by one."""
        size, done = self.key_size, 0
        data = ctypes.create_string_buffer(keys, len(keys))
        while done * size < len(keys):
            where, left = syscalls.address(data) + done * size, len(keys) // size - done
            attr = ctypes.create_string_buffer(
                struct.pack("=QQQQIIQQ", 0, 0, where, 0, left, self.fd, 0, 0), 144
            )
            try:
                syscalls.call("bpf", MAP_DELETE_BATCH, attr, len(attr))
                return
            except OSError as exc:
                if exc.errno != errno.ENOENT:
                    break
            done += struct.unpack_from("=I", attr.raw, 32)[0] + 1  # the next one is not there
        for at in range(done * size, len(keys), size):
            self.delete(keys[at : at + size])

    def keys(self) -> Iterator[bytes]:
        """All keys, by MAP_GET_NEXT_KEY; a map that changes meanwhile may repeat or skip some."""
        following = ctypes.create_string_buffer(self.key_size)
        key = None
        while True:
            try:
                bpf(
                    MAP_NEXT_KEY,
                    struct.pack(
                        "=IIQQ",
                        self.fd,
                        0,
                        syscalls.address(key) if key else 0,
                        syscalls.address(following),
                    ),
                )
            except OSError as exc:
                if exc.errno == errno.ENOENT:
                    return
                raise
            key = ctypes.create_string_buffer(following.raw, self.key_size)
            yield following.raw

    def items(self) -> list[tuple[bytes, bytes]]:
        """[(key, value)] of a hash or array map: by batches (Linux 5.6), else one by one."""
        return [item for batch in self.batches() for item in batch]

    def batches(self) -> Iterator[list[tuple[bytes, bytes]]]:
        """Yield the same in lists of at most some thousand.

        What has been yielded may be removed from a hash map before the next ones are read.
        """
        size, stride = self.key_size, self._stride
        for count, keys, values in self.chunks():
            yield [
                (keys[i * size : (i + 1) * size], values[i * stride : (i + 1) * stride])
                for i in range(count)
            ]

    def chunks(self) -> Iterator[tuple[int, bytes, bytes]]:
        """Yield (count, keys, values): some thousand entries at a time, end to end.

        For a map too large for a list.
        """
        chunk = max(1, min(self.max_entries, 4096, (1 << 18) // max(self._stride, 1)))
        # The cursor is a bucket number for hash maps, a key for arrays.
        cursor = ctypes.create_string_buffer(max(4, self.key_size))
        started = 0
        keys = ctypes.create_string_buffer(chunk * self.key_size)
        values = ctypes.create_string_buffer(chunk * self._stride)
        while True:
            code: int | None = 0
            attr = ctypes.create_string_buffer(
                struct.pack(
                    "=QQQQIIQQ",
                    started and syscalls.address(cursor),
                    syscalls.address(cursor),
                    syscalls.address(keys),
                    syscalls.address(values),
                    chunk,
                    self.fd,
                    0,
                    0,
                ),
                144,
            )
            try:
                syscalls.call("bpf", MAP_LOOKUP_BATCH, attr, len(attr))
            except OSError as exc:
                code = exc.errno
            count = struct.unpack_from("=I", attr.raw, 32)[0]
            if code == errno.ENOSPC:  # one hash bucket holds more than a chunk
                chunk *= 2
                keys = ctypes.create_string_buffer(chunk * self.key_size)
                values = ctypes.create_string_buffer(chunk * self._stride)
                continue
            if code not in (0, errno.ENOENT):
                if not started and code in (
                    errno.EINVAL,
                    errno.ENOTSUPP if hasattr(errno, "ENOTSUPP") else 524,
                    errno.EOPNOTSUPP,
                ):
                    for key, value in self._one_by_one():
                        yield 1, key, value
                    return
                raise OSError(code, os.strerror(code or 0))
            if count:
                yield (
                    count,
                    ctypes.string_at(keys, count * self.key_size),
                    ctypes.string_at(values, count * self._stride),
                )
            started = 1
            if code == errno.ENOENT:
                return

    def _one_by_one(self) -> list[tuple[bytes, bytes]]:
        result = []
        for key in list(self.keys()):
            value = self.lookup(key)
            if value is not None:
                result.append((key, value))
        return result

    def per_cpu(self, value: bytes) -> list[bytes]:
        """The list of each CPU's value out of what lookup() returned for a per-CPU map."""
        step = self.value_size + 7 & ~7
        return [value[at : at + self.value_size] for at in range(0, self._stride, step)]

    def stack(self, number: int) -> list[int] | None:
        """The addresses of a stack trace, innermost first.

        None when it was never stored or was replaced.
        """
        raw = self.lookup(struct.pack("=I", number))
        if raw is None:
            return None
        frames = struct.unpack(f"={len(raw) // 8}Q", raw)
        return list(frames[: frames.index(0)] if 0 in frames else frames)


class RingBuffer:
    """The reader's side of a BPF_MAP_TYPE_RINGBUF map, by mmap.

    fd is readable (poll) when there are records.  `records` returns them all, in
    order, `read` the same as bytes.  What did not fit is for the program to count.
    """

    _BUSY, _DISCARD = 1 << 31, 1 << 30

    def __init__(self, map_: Map, layout: Layout | None = None) -> None:
        """layout: the Layout of the records."""
        import _thread
        import mmap

        self.fd, self._size, self._layout = map_.fd, map_.max_entries, layout
        page = mmap.PAGESIZE
        self._mine = mmap.mmap(map_.fd, page, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        # The data follows the producer's page.  The kernel offers to map it twice in a row, so that
        # a record never wraps; but all that is mapped counts as resident memory.
        self._theirs = mmap.mmap(
            map_.fd, page + self._size, mmap.MAP_SHARED, mmap.PROT_READ, offset=page
        )
        self._consumer = memoryview(self._mine).cast("Q")
        self._producer = memoryview(self._theirs)[:8].cast("Q")
        self._headers = memoryview(self._theirs)[page:].cast("I")
        self._data = memoryview(self._theirs)[page:]
        self._lock = _thread.allocate_lock()

    def _barrier(self) -> None:
        """Order loads and stores around this point, which ARM would not do by itself."""
        self._lock.acquire()
        self._lock.release()
        self._lock.acquire()
        self._lock.release()

    def _complete(self) -> tuple[list[tuple[int, int]], int]:
        """([(start, stop)] of all complete records, where what follows them begins)."""
        found = []
        headers, mask = self._headers, self._size - 1
        position, end = self._consumer[0], self._producer[0]
        self._barrier()
        while position < end:
            at = position & mask
            header = headers[at >> 2]
            if header & self._BUSY:
                break
            length = header & ~(self._BUSY | self._DISCARD)
            if not header & self._DISCARD:
                found.append((at + 8, at + 8 + length))
            position += length + 8 + 7 & ~7
        self._barrier()
        return found, position

    def _release(self, position: int) -> None:
        """Let the program overwrite the records before a position."""
        self._barrier()
        self._consumer[0] = position

    def read(self) -> list[bytes]:
        """The list of all complete records."""
        found, position = self._complete()
        data, size = self._data, self._size
        records = [
            bytes(data[start:stop]) if stop <= size else self._copy(start, stop)
            for start, stop in found
        ]
        self._release(position)
        return records

    def _copy(self, start: int, stop: int) -> bytes:
        """The bytes at a place, which may go on at the beginning of the buffer."""
        size = self._size
        if stop <= size:
            return bytes(self._data[start:stop])
        return bytes(self._data[min(start, size) :]) + bytes(
            self._data[max(start - size, 0) : stop - size]
        )

    def records(self) -> list[Any]:
        """The list of all complete records, as the layout has them."""
        assert self._layout is not None, "no layout"
        return [self._layout.unpack(data) for data in self.read()]

    @property
    def end(self) -> int:
        """The position behind the last record so far, complete or not."""
        return int(self._producer[0])

    def matching(self, heads: set[bytes], keep: int) -> list[Any]:
        """Of all complete records, those that begin with one of these bytes.

        For thousands of records of which a few are wanted.  heads: equally long.
        keep: a position, of `end`; what is behind it stays in the buffer for the next time.
        """
        assert self._layout is not None, "no layout"
        size = len(next(iter(heads), b""))
        found, position = self._complete()
        records = [
            self._layout.unpack(self._copy(start, stop))
            for start, stop in found
            if self._copy(start, start + size) in heads
        ]
        self._release(min(position, keep))
        return records


class Banks:
    """The two banks of a program's maps: it writes one while the other is read and cleared.

    So nothing is lost or counted twice between the two.  The text takes the number of the bank to
    write from the map `bank`.
    """

    def __init__(self, program: Program) -> None:
        self._maps, self._written = program.maps, 0
        self._old, self._final = 1, False

    def switch(self, final: bool) -> None:
        """Let the program write the other bank, and read from this one from now on.

        final: this is the last time, so that nothing needs to be cleared, nor to wait for a program
        in flight.
        """
        self._old, self._final = self._written, final
        self._written = 1 - self._written
        self._maps["bank"].write(0, self._written)
        if not final:
            grace_period()

    def array(self, name: str, number: int) -> list[Any]:
        """The values of an array map that has `number` entries for each bank."""
        found, map_ = [], self._maps[name]
        for key in range(self._old * number, (self._old + 1) * number):
            raw = map_.lookup(map_.key_layout.pack(key))
            assert raw is not None, "an array has every key"
            if not self._final and raw.strip(b"\0"):
                map_.clear(key)
            found.append(map_.value_layout.unpack(raw))
        return found

    def hash(self, name: str) -> list[tuple[Any, Any]]:
        """[(key, value)] of a hash map, whose keys have the bank's number as a member `bank`."""
        return list(self.each(name))

    def each(self, name: str) -> Iterator[tuple[Any, Any]]:
        """Yield the same one by one, for a map of thousands of entries; to be read to its end."""
        map_ = self._maps[name]
        key_of, value_of = map_.key_layout.unpack, map_.value_layout.unpack
        for batch in map_.batches():
            found = [(key_of(key), key, value) for key, value in batch]
            found = [item for item in found if item[0].bank == self._old]
            if not self._final:
                map_.remove_all(b"".join([key for _, key, _ in found]))
            for named, _, value in found:
                yield named, value_of(value)
