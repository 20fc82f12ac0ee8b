# SPDX-License-Identifier: GPL-2.0-or-later
"""A compiled object loaded into the kernel by bpf(2), attached, its maps readable.

No bcc, no libbpf.  Follows include/uapi/linux/bpf.h (union bpf_attr) and, for
the ring buffer, kernel/bpf/ringbuf.c.  Keys and values are records (see
`record`) or bytes in the machine's own layout.  Closing the process detaches
everything.
"""

import ctypes
import errno
import os
import struct

from .kernel import rlimit, syscalls
from .errors import Error, NotPermitted, Unavailable, file_limit
from .record import Layouts

__all__ = ["Program", "Map", "RingBuffer", "Refused", "first", "check", "permitted", "check_permission",
           "possible_cpus", "grace_period", "load", "field_places", "Banks"]

(MAP_CREATE, MAP_LOOKUP, MAP_UPDATE, MAP_DELETE, MAP_NEXT_KEY, PROG_LOAD) = range(6)
RAW_TRACEPOINT_OPEN, BTF_LOAD, LINK_CREATE, ITER_CREATE = 17, 18, 28, 33
MAP_LOOKUP_BATCH, MAP_LOOKUP_AND_DELETE_BATCH = 24, 25
NOEXIST = 1                     # a flag of Map.update: only when there is no such key

HASH, ARRAY, PERCPU_HASH, PERCPU_ARRAY, STACK_TRACE, LRU_HASH, LRU_PERCPU_HASH = 1, 2, 5, 6, 7, 9, 10
PERF_EVENT_ARRAY, RINGBUF = 4, 27
_LOCAL_STORAGE = (24, 28, 29, 32)       # of sockets, inodes, tasks, cgroups
_PERCPU = (PERCPU_HASH, PERCPU_ARRAY, LRU_PERCPU_HASH, 21)
_NO_KEY_MAPS = (ARRAY, PERCPU_ARRAY)

PROG_KPROBE, PROG_TRACEPOINT, PROG_PERF_EVENT, PROG_RAW_TRACEPOINT, PROG_TRACING = 2, 5, 7, 17, 26
# kind -> (program type, expected attach type)
_KINDS = {"tp_btf": (PROG_TRACING, 23), "fentry": (PROG_TRACING, 24), "fexit": (PROG_TRACING, 25),
          "iter": (PROG_TRACING, 28),
          "raw_tp": (PROG_RAW_TRACEPOINT, 0), "tracepoint": (PROG_TRACEPOINT, 0),
          "kprobe": (PROG_KPROBE, 0), "kretprobe": (PROG_KPROBE, 0),
          "uprobe": (PROG_KPROBE, 0), "uretprobe": (PROG_KPROBE, 0),
          "uprobe_multi": (PROG_KPROBE, 48), "uretprobe_multi": (PROG_KPROBE, 48), "uprobe_session": (PROG_KPROBE, 57),
          "perf_event": (PROG_PERF_EVENT, 0)}
_PERF_EVENT_LINK = 41           # BPF_PERF_EVENT
_LOG_SIZE = 1 << 20
_DENIED = (errno.EPERM, errno.EACCES)


class Refused(Unavailable):
    """The verifier does not accept a program: a fault of the program, or of what the compiler made of it."""


def _bpf(command, attr):
    """bpf(2); returns (result, the attr bytes as the kernel left them)."""
    buffer = ctypes.create_string_buffer(attr, max(len(attr), 144))
    return _open(syscalls.call, "bpf", command, buffer, len(buffer)), buffer.raw


def _open(function, *arguments, **options):
    """The result of a function that opens a file.  Raises as it does, and Error with the remedy when no more may be open."""
    try:
        return function(*arguments, **options)
    except OSError as exc:
        raise file_limit(exc) or exc from None


def _name(text):
    """A name as the kernel takes it: 15 of [A-Za-z0-9_.]."""
    return "".join(c if c.isalnum() and c.isascii() or c in "_." else "_" for c in text)[:15].encode()


def possible_cpus(root="/"):
    """How many CPUs per-CPU maps have values for: the highest possible number plus one."""
    with open(os.path.join(root, "sys/devices/system/cpu/possible")) as f:
        return int(f.read().strip().rpartition("-")[2].rpartition(",")[2]) + 1


def grace_period():
    """Return when every BPF program that was running has ended (an RCU grace period).

    membarrier(2)'s MEMBARRIER_CMD_GLOBAL is synchronize_rcu, and a tracing
    program runs inside an RCU read section.
    """
    try:
        syscalls.call("membarrier", 1, 0, 0)
    except OSError:         # nohz_full CPUs: refused.  A program runs for microseconds.
        import time
        time.sleep(0.02)


def permitted():
    """True when this process may load a tracing program."""
    code = ctypes.create_string_buffer(struct.pack("=BBhiBBhi", 0xb7, 0, 0, 0, 0x95, 0, 0, 0), 16)
    licence = ctypes.create_string_buffer(b"GPL")
    try:
        fd, _ = _bpf(PROG_LOAD, struct.pack("=IIQQ", PROG_RAW_TRACEPOINT, 2, syscalls.address(code),
                                            syscalls.address(licence)))
    except OSError as exc:
        return exc.errno not in _DENIED
    os.close(fd)
    return True


def check_permission():
    """Raises NotPermitted unless this process may load a tracing program."""
    if not permitted():
        raise _denied("load BPF programs", None)


def _raise_memlock():
    """Kernels before 5.11 charge maps to RLIMIT_MEMLOCK.  A refusal is no error by itself."""
    import resource
    try:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    except (OSError, ValueError):
        pass


def _storage_btf(value_size):
    """The descriptor of a BTF with `int` as type 1 and an array of value_size bytes as type 3."""
    strings = b"\0int\0char\0"
    types = struct.pack("=IIII", 1, 1 << 24, 4, 1 << 24 | 32)           # int, signed, 32 bits
    types += struct.pack("=IIII", 5, 1 << 24, 1, 8)                     # char, 8 bits
    types += struct.pack("=IIIIII", 0, 3 << 24, 0, 2, 1, value_size)    # char[value_size], indexed by int
    blob = struct.pack("=HBBIIIII", 0xeb9f, 1, 0, 24, 0, len(types), len(types), len(strings)) + types + strings
    data = ctypes.create_string_buffer(blob, len(blob))
    return _bpf(BTF_LOAD, struct.pack("=QQIII", syscalls.address(data), 0, len(blob), 0, 0))[0]


class Map:
    """One map.  name, type, key_size, value_size (of one CPU's value), max_entries, fd.

    read, write, clear, remove and records have keys and values as records or numbers, the other methods as bytes.
    """

    def __init__(self, name, type_, key_size, value_size, max_entries, flags=0, key="-", value="-", layouts=None):
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
            max_entries, flags = 0, 1           # BPF_F_NO_PREALLOC is mandatory
        try:
            self.fd, _ = _bpf(MAP_CREATE, struct.pack("=IIIIIII16sIIII", type_, key_size, value_size, max_entries,
                                                      flags, 0, 0, _name(name), 0, *btf))
        finally:
            if btf[0]:
                os.close(btf[0])

    @property
    def key_layout(self):
        """The Layout of the keys."""
        return self._layouts[self._key_type]

    @property
    def value_layout(self):
        """The Layout of the values."""
        return self._layouts[self._value_type]

    def _key(self, key):
        """The bytes of a key: a number, or a tuple of a struct's members, such as a record."""
        return self.key_layout.pack(*(key if isinstance(key, tuple) else (key,)))

    def read(self, key):
        """The value of a key, or None.  Not of a per-CPU map."""
        data = self.lookup(self._key(key))
        return None if data is None else self.value_layout.unpack(data)

    def read_per_cpu(self, key):
        """The list of each CPU's value of a key of a per-CPU map, or None."""
        data = self.lookup(self._key(key))
        return None if data is None else [self.value_layout.unpack(value) for value in self.per_cpu(data)]

    def write(self, key, *values, flags=0):
        """Set the value of a key: a number, or a struct's members.  Raises OSError (E2BIG: the map is full)."""
        self.update(self._key(key), self.value_layout.pack(*values), flags)

    def clear(self, key):
        """Set the value of a key to zeros."""
        self.update(self._key(key), bytes(self._stride))

    def remove(self, key):
        """Remove a key; False when it was not there."""
        return self.delete(self._key(key))

    def records(self):
        """[(key, value)] of a hash or array map, not of a per-CPU map."""
        key, value = self.key_layout, self.value_layout
        return [(key.unpack(k), value.unpack(v)) for k, v in self.items()]

    def lookup(self, key):
        """The value of a key (all CPUs' values end to end for a per-CPU map), or None."""
        key = ctypes.create_string_buffer(key, self.key_size)
        value = ctypes.create_string_buffer(self._stride)
        try:
            _bpf(MAP_LOOKUP, struct.pack("=IIQQQ", self.fd, 0, syscalls.address(key), syscalls.address(value), 0))
        except OSError as exc:
            if exc.errno == errno.ENOENT:
                return None
            raise
        return value.raw

    def update(self, key, value, flags=0):
        """Set the value of a key.  Raises OSError (E2BIG: the map is full)."""
        key = ctypes.create_string_buffer(key, self.key_size)
        value = ctypes.create_string_buffer(value, self._stride)
        _bpf(MAP_UPDATE, struct.pack("=IIQQQ", self.fd, 0, syscalls.address(key), syscalls.address(value), flags))

    def delete(self, key):
        """Remove a key; False when it was not there."""
        key = ctypes.create_string_buffer(key, self.key_size)
        try:
            _bpf(MAP_DELETE, struct.pack("=IIQ", self.fd, 0, syscalls.address(key)))
        except OSError as exc:
            if exc.errno == errno.ENOENT:
                return False
            raise
        return True

    def keys(self):
        """All keys, by MAP_GET_NEXT_KEY; a map that changes meanwhile may repeat or skip some."""
        following = ctypes.create_string_buffer(self.key_size)
        key = None
        while True:
            try:
                _bpf(MAP_NEXT_KEY, struct.pack("=IIQQ", self.fd, 0, syscalls.address(key) if key else 0,
                                               syscalls.address(following)))
            except OSError as exc:
                if exc.errno == errno.ENOENT:
                    return
                raise
            key = ctypes.create_string_buffer(following.raw, self.key_size)
            yield following.raw

    def items(self):
        """[(key, value)] of a hash or array map: by batches (Linux 5.6), else one by one."""
        return self._batch(MAP_LOOKUP_BATCH)

    def drain(self):
        """[(key, value)] of a hash map, each removed as it is read."""
        return self._batch(MAP_LOOKUP_AND_DELETE_BATCH)

    def _batch(self, command):
        size, stride = self.key_size, self._stride
        return [(keys[i * size:(i + 1) * size], values[i * stride:(i + 1) * stride])
                for count, keys, values in self.chunks(command) for i in range(count)]

    def chunks(self, command=MAP_LOOKUP_BATCH):
        """Yield (count, keys, values): some thousand entries at a time, end to end, for a map too large for a list."""
        chunk = max(1, min(self.max_entries, 4096, (1 << 22) // max(self._stride, 1)))
        keys = values = None
        # The cursor is a bucket number for hash maps, a key for arrays.
        cursor = ctypes.create_string_buffer(max(4, self.key_size))
        started = 0
        while True:
            if keys is None:
                keys = ctypes.create_string_buffer(chunk * self.key_size)
                values = ctypes.create_string_buffer(chunk * self._stride)
            code = 0
            attr = ctypes.create_string_buffer(struct.pack(
                "=QQQQIIQQ", started and syscalls.address(cursor), syscalls.address(cursor), syscalls.address(keys),
                syscalls.address(values), chunk, self.fd, 0, 0), 144)
            try:
                syscalls.call("bpf", command, attr, len(attr))
            except OSError as exc:
                code = exc.errno
            count = struct.unpack_from("=I", attr.raw, 32)[0]
            if code == errno.ENOSPC:            # one hash bucket holds more than a chunk
                chunk, keys = chunk * 2, None
                continue
            if code not in (0, errno.ENOENT):
                if not started and code in (errno.EINVAL, errno.ENOTSUPP if hasattr(errno, "ENOTSUPP") else 524,
                                            errno.EOPNOTSUPP):
                    for key, value in self._one_by_one(command == MAP_LOOKUP_AND_DELETE_BATCH):
                        yield 1, key, value
                    return
                raise OSError(code, os.strerror(code))
            if count:
                yield count, keys.raw[:count * self.key_size], values.raw[:count * self._stride]
            started = 1
            if code == errno.ENOENT:
                return

    def _one_by_one(self, remove):
        result = []
        for key in list(self.keys()):
            value = self.lookup(key)
            if value is not None:
                result.append((key, value))
                if remove:
                    self.delete(key)
        return result

    def per_cpu(self, value):
        """The list of each CPU's value out of what lookup() returned for a per-CPU map."""
        step = self.value_size + 7 & ~7
        return [value[at:at + self.value_size] for at in range(0, self._stride, step)]

    def stack(self, number):
        """The addresses of a stack trace, innermost first; None when it was never stored or was replaced."""
        raw = self.lookup(struct.pack("=I", number))
        if raw is None:
            return None
        frames = struct.unpack("=%dQ" % (len(raw) // 8), raw)
        return list(frames[:frames.index(0)] if 0 in frames else frames)


class RingBuffer:
    """The reader's side of a BPF_MAP_TYPE_RINGBUF map, by mmap.

    fd is readable (poll) when there are records.  `records` returns them all, in
    order, `read` the same as bytes.  What did not fit is for the program to count.
    """

    _BUSY, _DISCARD = 1 << 31, 1 << 30

    def __init__(self, map_, layout=None):
        """layout: the Layout of the records."""
        import _thread
        import mmap
        self.fd, self._size, self._layout = map_.fd, map_.max_entries, layout
        page = mmap.PAGESIZE
        self._mine = mmap.mmap(map_.fd, page, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        # The data follows the producer's page and is mapped twice, so that a record never wraps.
        self._theirs = mmap.mmap(map_.fd, page + 2 * self._size, mmap.MAP_SHARED, mmap.PROT_READ, offset=page)
        self._consumer = memoryview(self._mine).cast("Q")
        self._producer = memoryview(self._theirs)[:8].cast("Q")
        self._headers = memoryview(self._theirs)[page:].cast("I")
        self._data = memoryview(self._theirs)[page:]
        self._lock = _thread.allocate_lock()

    def _barrier(self):
        """Order loads and stores around this point, which ARM would not do by itself."""
        self._lock.acquire()
        self._lock.release()
        self._lock.acquire()
        self._lock.release()

    def read(self):
        """The list of all complete records."""
        found = []
        position, end = self._consumer[0], self._producer[0]
        self._barrier()
        while position < end:
            at = position & self._size - 1
            header = self._headers[at // 4]
            if header & self._BUSY:
                break
            length = header & ~(self._BUSY | self._DISCARD)
            if not header & self._DISCARD:
                found.append((at + 8, length))
            position += length + 8 + 7 & ~7
        self._barrier()
        records = [bytes(self._data[at:at + length]) for at, length in found]
        self._barrier()
        self._consumer[0] = position
        return records

    def records(self):
        """The list of all complete records, as the layout has them."""
        return [self._layout.unpack(data) for data in self.read()]


class Program:
    """An Object's maps created, and its functions loaded as they are attached.

    obj: a compile.Object.
    params: {name: value} for each PARAM of the text: a whole number, unsigned 64-bit, or a tuple of names of
        enumeration constants, the first of which that the kernel has is the value.
    maps: {name: {"max_entries" | "elements" | "value_size" | "flags": number}} to size a map for this run; elements:
        how many the array has that is the last member of the value.
    Attributes: maps {name: Map}; layouts: the Layouts of structs by their names in C, of those that are in a map or
    that RECORD names; taken: what each point was attached to; refused:
    lines that say why an earlier candidate was not.
    Raises Unavailable when this kernel cannot have the program, NotPermitted, OSError.
    """

    def __init__(self, obj, params=None, maps=None):
        if obj.unusable:
            raise Unavailable(obj.unusable)
        self.name, self._object = obj.name, obj
        self._params = {name: self._value(value) for name, value in (params or {}).items()}
        self._reported = dict.fromkeys(obj.counters, 0)
        self.maps, self.layouts, self.taken, self.refused = {}, Layouts(obj.layouts), [], []
        self._loaded, self._links, self._targets = {}, [], {}
        _raise_memlock()
        rlimit.raise_open_files(len(obj.maps) + 2 * len(obj.points) + len(obj.probes), "BPF maps, programs and events")
        for name, type_, key_size, value_size, max_entries, flags, key, value in obj.maps:
            size = (maps or {}).get(name, {})
            if "elements" in size:
                value_size = self.layouts[value].sized(size["elements"])
            try:
                self.maps[name] = Map(name, type_, key_size, size.get("value_size", value_size),
                                      size.get("max_entries", max_entries), size.get("flags", flags), key, value,
                                      self.layouts)
            except OSError as exc:
                self.close()
                if exc.errno in _DENIED:
                    raise _denied("create BPF maps", exc) from None
                raise Error("cannot create the BPF map %s of %d entries: %s"
                            % (name, size.get("max_entries", max_entries), exc.strerror)) from None

    def _value(self, value):
        """The number of a parameter."""
        if not isinstance(value, tuple):
            return value
        for name in value:
            if name in self._object.constants:
                return self._object.constants[name]
        raise Unavailable("this kernel's BTF has no %s" % " or ".join(value))

    def load(self, function, kind, target="", cookie=0):
        """The descriptor of a function loaded as a program of that kind.  Raises OSError, Unavailable, Refused.

        cookie: the value of PARAM(cookie), each of which makes a program of its own.
        """
        known = self._loaded.get((function, kind, target, cookie))
        if known is not None:
            return known
        if function not in self._object.functions:
            raise Unavailable("the program has no %s on this kernel" % function)
        code, map_places, param_places = self._object.functions[function]
        code = bytearray(code)
        descriptors = [self.maps[entry[0]].fd for entry in self._object.maps]
        for at, index in map_places:
            struct.pack_into("=I", code, at + 4, descriptors[index])
        for at, name in param_places:
            value = (cookie if name == "cookie" else self._params[name]) & (1 << 64) - 1
            struct.pack_into("=I", code, at + 4, value & 0xffffffff)
            struct.pack_into("=I", code, at + 12, value >> 32)
        type_, attach_type = _KINDS[kind]
        btf_id = 0
        if type_ == PROG_TRACING:
            btf_id = self._object.ids.get("%s/%s" % (kind, target)) or 0
            if not btf_id:
                raise Unavailable("this kernel's BTF has no such %s"
                                  % ("tracepoint" if kind == "tp_btf" else "function"))
        instructions = ctypes.create_string_buffer(bytes(code), len(code))
        licence = ctypes.create_string_buffer(b"GPL")

        def attr(log):
            return struct.pack("=IIQQIIQII16sIIIIQIIQIII", type_, len(code) // 8, syscalls.address(instructions),
                               syscalls.address(licence), 1 if log else 0, len(log) if log else 0,
                               syscalls.address(log) if log else 0, 0, 0, _name(function), 0, attach_type,
                               0, 0, 0, 0, 0, 0, 0, btf_id, 0)
        try:
            fd, _ = _bpf(PROG_LOAD, attr(None))
        except OSError as exc:
            # EPERM is never the verifier's: the process may not, or the kernel has no trampolines for fentry and fexit.
            if exc.errno == errno.EPERM or exc.errno in _DENIED and not permitted():
                raise
            log = ctypes.create_string_buffer(_LOG_SIZE)
            try:
                fd, _ = _bpf(PROG_LOAD, attr(log))
            except OSError:             # perhaps another error, ENOSPC: the log is too long
                words = log.value.decode("utf-8", "replace").strip().splitlines()
                reason = [w for w in words if w and not w.startswith(("processed ", "max_states", "; "))][-1:]
                if not reason:
                    raise exc from None
                raise Refused("%s (verifier: %s)" % (exc.strerror, reason[0])) from None
        self._loaded[function, kind, target, cookie] = fd
        return fd

    def attach(self):
        """Attach every point of the source to the first of its candidates that the kernel accepts.

        Candidates are "kind/target:function":
          tp_btf/NAME, fentry/FUNCTION, fexit/FUNCTION       typed by BTF
          raw_tp/NAME, tracepoint/CATEGORY:NAME
          kprobe/FUNCTION, kretprobe/FUNCTION
        A last candidate "none" lets a point be without.  The source's probes are loaded before; the
        command attaches them by their own methods, since their targets are known only at run time.
        Raises Unavailable (with every reason) or NotPermitted when a point has no candidate left.
        """
        self._choose(self._attach_one)

    def load_all(self):
        """Load all that `attach` would, and attach nothing.  Raises as it does; Refused by the verifier."""
        self._choose(lambda kind, target, function: self.load(function, kind, target))

    def _choose(self, use):
        """`use` (kind, target, function) of each probe, and of each point's first candidate for which it works."""
        for probe in self._object.probes:
            kind, _, function = probe.partition(":")
            try:
                self.load(function, kind)
            except (OSError, Unavailable) as exc:
                raise self._failure([(kind, exc)]) from None
        for point in self._object.points:
            failed = []
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

    def _failure(self, failed):
        """The exception for a point whose candidates have all failed: [(candidate, exception)]."""
        if any(_is_denied(exc) for _, exc in failed):
            check_permission()
        kind = Refused if any(isinstance(exc, Refused) for _, exc in failed) else Unavailable
        return kind("cannot attach %s: %s" % (self.name, "; ".join(map(_reason, failed))))

    def _attach_one(self, kind, target, function):
        fd = self.load(function, kind, target)
        name = ctypes.create_string_buffer(target.encode())
        if kind in ("tp_btf", "fentry", "fexit"):
            link = _bpf(RAW_TRACEPOINT_OPEN, struct.pack("=QI", 0, fd))[0]
        elif kind == "raw_tp":
            link = _bpf(RAW_TRACEPOINT_OPEN, struct.pack("=QI", syscalls.address(name), fd))[0]
        elif kind == "tracepoint":
            from .perf import event as perf_event, tracefs
            number = _open(tracefs.tracepoint_id, *target.split(":", 1))
            link = self._event(fd, perf_event.TYPE_TRACEPOINT, number, cpu=0)
        elif kind in ("kprobe", "kretprobe"):
            from .perf import event_source
            pmu = _open(event_source.pmu_type, "kprobe")
            config = _open(event_source.retprobe_bit, "kprobe") if kind == "kretprobe" else 0
            link = self._event(fd, pmu, config, cpu=0, config1=syscalls.address(name))
        else:
            raise ValueError("%s is attached by its own method" % kind)
        self._links.append(link)

    @staticmethod
    def _event(program, *arguments, **options):
        """The descriptor of an event, as perf_event.open_event makes it, that runs a program."""
        from .perf import event as perf_event
        event = _open(perf_event.open_event, *arguments, **options)
        try:
            perf_event.attach(event, program)
        except OSError:
            os.close(event)
            raise
        return event

    def iterate(self, function, target):
        """The bytes that a function writes with bpf_seq_write() for each object of a kind, such as "task" (Linux 5.8).

        Raises Unavailable, NotPermitted.
        """
        try:
            program = self.load(function, "iter", target)
            link, _ = _bpf(LINK_CREATE, struct.pack("=IIII", program, 0, _KINDS["iter"][1], 0))
            try:
                with open(_bpf(ITER_CREATE, struct.pack("=II", link, 0))[0], "rb", buffering=0) as f:
                    return f.readall()
            finally:
                os.close(link)
        except OSError as exc:
            if exc.errno in _DENIED and not permitted():
                raise _denied("load BPF programs", exc) from None
            raise Unavailable("cannot iterate over each %s: %s" % (target, exc.strerror)) from None

    def attach_uprobe(self, function, path, offset, pid=-1, returning=False, cookie=0):
        """Attach to a file offset of an executable or library, in one process or (pid -1) in all.

        cookie: what bpf_get_attach_cookie gives the program (Linux 5.15), or what PARAM(cookie) is where the
        function reads that.
        """
        from .perf import event as perf_event, event_source
        name = ctypes.create_string_buffer(os.fsencode(path))
        kind = "uretprobe" if returning else "uprobe"
        pmu = _open(event_source.pmu_type, "uprobe")
        config = _open(event_source.retprobe_bit, "uprobe") if returning else 0
        attributes = pmu, config, pid, 0 if pid < 0 else -1, syscalls.address(name), offset
        constant = any(name == "cookie" for _, name in self._object.functions[function][2])
        program = self.load(function, kind, cookie=cookie if constant else 0)
        if not cookie or constant:
            self._links.append(self._event(program, *attributes))
            return
        event = _open(perf_event.open_event, *attributes)
        try:
            self._links.append(_bpf(LINK_CREATE, struct.pack("=IIIIQ", program, event, _PERF_EVENT_LINK, 0, cookie))[0])
            perf_event.enable(event)
        finally:
            os.close(event)         # the link holds it

    def attach_uprobes(self, kind, function, path, places, pid=0):
        """Attach to many functions of an executable or library at once, in one process or (0) in all.

        kind: "uprobe_multi" or "uretprobe_multi" (Linux 6.6), or "uprobe_session"
        (6.13): at each entry, and at the return when the program returned 0 at the entry.
        places: {file offset: cookie}.  Raises OSError.
        """
        name = ctypes.create_string_buffer(os.fsencode(path))
        offsets = ctypes.create_string_buffer(struct.pack("=%dQ" % len(places), *places))
        cookies = ctypes.create_string_buffer(struct.pack("=%dQ" % len(places), *places.values()))
        self._links.append(_bpf(LINK_CREATE, struct.pack(
            "=IIIIQQQQIII", self.load(function, kind), 0, _KINDS[kind][1], 0,
            syscalls.address(name), syscalls.address(offsets), 0, syscalls.address(cookies), len(places),
            kind == "uretprobe_multi", pid))[0])

    def attach_software(self, function, config, cpu, period=0, frequency=0):
        """Attach to a software event (PERF_COUNT_SW_*: 0 is the CPU clock) of one CPU."""
        from .perf import event as perf_event
        self._links.append(self._event(self.load(function, "perf_event"), perf_event.TYPE_SOFTWARE, config, -1, cpu,
                                       period=period, frequency=frequency))

    def constants(self):
        """{name: value} of all the enumeration constants that the source asked for and the kernel has."""
        return dict(self._object.constants)

    def counters(self):
        """{name: total since the start} of what the text counted with COUNT: losses, full maps."""
        if not self._object.counters:
            return {}
        values = dict(self.maps["counters"].records())
        return {name: values[i] for i, name in enumerate(self._object.counters)}

    def lost(self):
        """{name: growth since the last call} of what counters() returns."""
        now, before = self.counters(), self._reported
        self._reported = now
        return {name: now[name] - before[name] for name in now}

    def close(self):
        """Detach, and free the programs and maps."""
        for fd in self._links + list(self._loaded.values()) + [m.fd for m in self.maps.values()]:
            os.close(fd)
        self._links, self._loaded, self.maps = [], {}, {}


def _is_denied(exc):
    return isinstance(exc, OSError) and exc.errno in _DENIED


def _reason(failed):
    where, exc = failed
    return "%s: %s" % (where, getattr(exc, "strerror", None) or exc)


def _denied(what, exc):
    reason = exc.strerror if exc is not None else os.strerror(errno.EPERM)
    return NotPermitted("cannot %s: %s. Run as root, or with CAP_BPF and CAP_PERFMON" % (what, reason))


def check(obj):
    """Load the functions of an Object as Program.attach would choose them, and attach nothing.

    Every parameter is 1, so that the verifier sees what the options switch on.
    Returns lines that say why an earlier candidate was not taken.  Raises as Program and its attach do: Refused by the verifier, Unavailable, NotPermitted.
    """
    params = {name: 1 for _, _, places in obj.functions.values() for _, name in places}
    page = os.sysconf("SC_PAGE_SIZE")
    program = Program(obj, params, {name: {"max_entries": max(entries, page if type_ == RINGBUF else 1)}
                                    for name, type_, _, _, entries, *_ in obj.maps})
    try:
        program.load_all()
        return program.refused
    finally:
        program.close()


class Banks:
    """The two banks of a program's maps: it writes one while the other is read and cleared.

    So nothing is lost or counted twice between the two.  The text takes the number of the bank to write from the
    map `bank`.
    """

    def __init__(self, program):
        self._maps, self._written = program.maps, 0
        self._old, self._final = 1, False

    def switch(self, final):
        """Let the program write the other bank, and read from this one from now on.

        final: this is the last time, so that nothing needs to be cleared, nor to wait for a program in flight.
        """
        self._old, self._final = self._written, final
        self._written = 1 - self._written
        self._maps["bank"].write(0, self._written)
        if not final:
            grace_period()

    def array(self, name, number):
        """The values of an array map that has `number` entries for each bank."""
        found, map_ = [], self._maps[name]
        for key in range(self._old * number, (self._old + 1) * number):
            raw = map_.lookup(map_.key_layout.pack(key))
            if not self._final and raw.strip(b"\0"):
                map_.clear(key)
            found.append(map_.value_layout.unpack(raw))
        return found

    def hash(self, name):
        """[(key, value)] of a hash map, whose keys have the bank's number as a member `bank`."""
        map_ = self._maps[name]
        found = [(key, value) for key, value in map_.records() if key.bank == self._old]
        if not self._final:
            for key, _ in found:
                map_.remove(key)
        return found


def field_places(source):
    """{parameter: offset << 8 | size, 0 without it} of each of a Source's `fields`, from the format files of tracefs.

    Raises Unavailable for one that the kernel must have and has not.
    """
    from .perf import tracefs
    found = {}
    for param, text in source.fields.items():
        tracepoint, _, field = text.partition(".")
        category, _, name = tracepoint.rstrip("?").partition(":")
        try:
            fields = tracefs.tracepoint_fields(category, name)[0]
        except Unavailable:
            if not tracepoint.endswith("?"):
                raise
            found[param] = 0
            continue
        offset, size = fields.get(field.rstrip("?"), (0, 0))
        if not size and not field.endswith("?"):
            raise Unavailable("this kernel's tracepoint %s:%s has no field %s" % (category, name, field))
        found[param] = offset << 8 | size
    return found


def load(sources, args, params=None, sizes=None):
    """The Program of the first of a command's sources that compiles, loads and attaches on this kernel.

    sources: {name: Source} in order of preference; args.source, of --source, chooses one of them.
    args: what cli.parse() returned.  Where the programs filter tasks, args.pid, args.tid and args.cgroup are what
        they filter by, as far as the command has these options.
    params: {name: value} of the other parameters, as for Program; those that are missing are 0.
    sizes: of maps, as for Program.
    Raises Error for a filter that fits no task, NotPermitted, and Unavailable with the last reason when no source works.
    """
    from . import cli, compile

    def build(source):
        return compile.build(source, not args.no_cache, cli.note)

    chosen = [sources[args.source]] if args.source else list(sources.values())
    values = {name: 0 for source in chosen for name in source.params}
    if "tgid" in values:
        from . import tasks
        values.update(tasks.filters(args, build))
    values.update(params or {})
    return first(chosen, build, values, sizes, cli.verbose)


def first(sources, build, params=None, maps=None, verbose=lambda text: None):
    """The Program of the first source that compiles, loads and attaches on this kernel.

    sources: compile.Source variants in order of preference; build: source -> Object.
    params: as for Program, or a function from the Object to them.
    verbose: called with a line for each source or candidate that was not taken, and for what was.
    Raises NotPermitted at once, Unavailable with the last reason when none is left.
    """
    last = None
    for source in sources:
        program = None
        try:
            obj = build(source)
            values = params(obj) if callable(params) else params
            if source.fields:
                values = dict(values, **field_places(source))
            program = Program(obj, values, maps)
            program.attach()
        except NotPermitted:
            raise
        except (Unavailable, Error) as exc:
            if program is not None:
                program.close()
            verbose("not %s: %s" % (source.name, exc))
            # A source that this kernel lacks something for says less than one that failed.
            if last is None or not isinstance(exc, Unavailable) or isinstance(last, Unavailable):
                last = exc
            continue
        for line in program.refused:
            verbose("%s: not %s" % (source.name, line))
        verbose("%s: attached to %s" % (source.name, ", ".join(program.taken)))
        return program
    raise last
