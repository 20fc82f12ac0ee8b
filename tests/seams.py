# SPDX-License-Identifier: GPL-2.0-or-later
"""What stands in for the kernel where no file holds the data: one function a command.

A function takes the World, the command's module, and the data of
tests/fixtures/NAME.json, in which every field has a name.  It maps them to
the objects that the command works on today, and is all that changes when
those do: the fixtures and tests/expected stay.

BPF: Program stands for the loaded program.  Its maps are filled, as the
program in the kernel would have, when the command switches the bank or reads
the ring buffer, with the bytes of the C structs.
"""

import json
import os
import struct
import types
import zlib

# {command: {"structs": {name: layout}, "maps": {name: "KEY VALUE"}}}, see
# tests/live/test_layouts.py
with open(
    os.path.join(os.path.dirname(os.path.abspath(__file__)), "fixtures/layouts.json"),
    encoding="utf-8",
) as _file:
    LAYOUTS = json.load(_file)


class FakeMap(dict):
    """A BPF map: bytes to bytes, and records by the layouts that Program gives it."""

    def __init__(self, name, max_entries=1, value_size=8):
        super().__init__()
        self.name, self.max_entries, self.value_size, self.fd = name, max_entries, value_size, -1
        self.key_layout = self.value_layout = None

    def read(self, key):
        raw = self.lookup(self._key(key))
        return None if raw is None else self.value_layout.unpack(raw)

    def write(self, key, *values):
        self.update(self._key(key), self.value_layout.pack(*values))

    def clear(self, key):
        self.update(self._key(key), bytes(self.value_size))

    def remove(self, key):
        return self.delete(self._key(key))

    def records(self):
        return [
            (self.key_layout.unpack(key), self.value_layout.unpack(value))
            for key, value in self.items()
        ]

    def batches(self):
        yield self.items()

    def remove_all(self, keys):
        for at in range(0, len(keys), self.key_layout.size):
            self.delete(keys[at : at + self.key_layout.size])

    def _key(self, key):
        return self.key_layout.pack(*(key if isinstance(key, tuple) else (key,)))

    def lookup(self, key):
        return self.get(key)

    def update(self, key, value, flags=0):
        self[key] = value

    def delete(self, key):
        return self.pop(key, None) is not None

    def items(self):
        return list(dict.items(self))

    def keys(self):
        return list(dict.keys(self))


class Bank(FakeMap):
    """The map of one number that says which bank is written: at each change, the other one is
    filled.
    """

    def __init__(self, fill):
        super().__init__("bank")
        self._fill = fill

    def update(self, key, value, flags=0):
        super().update(key, value)
        self._fill(1 - struct.unpack("=I", value)[0])


class Ring:
    """A ring buffer: records arrive in their time, as bytes; layout: of what records() gives."""

    def __init__(self, world, records):
        """records: [(seconds, function that gives bytes)]."""
        self.fd, writable = os.pipe()
        self._records, self.layout = [], None

        def arrive(make):
            self._records.append(make())
            os.write(writable, b"r")

        for seconds, make in records:
            world.at(seconds, lambda make=make: arrive(make))

    def read(self):
        found, self._records = self._records, []
        if found:
            os.read(self.fd, len(found))
        return found

    def records(self):
        return [self.layout.unpack(raw) for raw in self.read()]

    end = 0

    def matching(self, heads, keep):
        return [self.layout.unpack(raw) for raw in self.read() if raw[:16] in heads]


class Program:
    """A loaded bpf.Program.  maps, layouts, counters(), constants(), name, taken; params and sizes
    as the command has set them."""

    def __init__(self, world, module, maps, counters=(), constants=None, taken=("a place",)):
        """maps: {name: FakeMap, or Ring}.  counters: [(seconds, {name: total})]."""
        self.maps, self.taken, self.params, self.sizes, self.name = maps, list(taken), {}, {}, ""
        self._counters, self._constants = (
            dict.fromkeys(next(iter(module.SOURCES.values())).counters, 0),
            constants or {},
        )
        self._reported = dict(self._counters)
        for seconds, values in counters:
            world.at(seconds, lambda values=values: self._counters.update(values))
        from crisis import bpf
        from crisis.bpf import loader, map, record
        from crisis.kernel import syscalls

        described = LAYOUTS[module.__name__.partition("_")[2]]
        self.layouts = record.Layouts(described["structs"])

        def typed(name, map_):
            if isinstance(map_, FakeMap) and "-" not in described["maps"][name].split():
                map_.key_layout, map_.value_layout = [
                    self.layouts[type_] for type_ in described["maps"][name].split()
                ]
            return map_

        for name, map_ in maps.items():
            typed(name, map_)

        def first(sources, build, params=None, sizes=None, verbose=lambda text: None, without=()):
            self.name, self.sizes = sources[0].name, sizes or {}
            self.params = (
                params(types.SimpleNamespace(name=self.name, constants=self._constants))
                if callable(params)
                else params or {}
            )
            for name, size in self.sizes.items():
                if name not in self.maps:
                    self.maps[name] = typed(name, FakeMap(name))
                map_ = self.maps[name]
                if isinstance(map_, FakeMap):
                    map_.max_entries = size.get("max_entries", 1)
                    map_.value_size = size.get("value_size", 8)
                    if "elements" in size:
                        map_.value_size = map_.value_layout.sized(size["elements"])
            verbose(f"{self.name}: attached to {', '.join(self.taken)}")
            return self

        def reader(map_, layout=None):
            map_.layout = layout
            return map_

        def no_mount(filesystem):
            raise OSError(19, "No such device")

        loader.first, map.grace_period, bpf.RingBuffer = first, lambda: None, reader
        syscalls.detached_mount = no_mount

    def counters(self):
        return dict(self._counters)

    def lost(self):
        now, before = self.counters(), self._reported
        self._reported = now
        return {name: now[name] - before[name] for name in now}

    def constants(self):
        return dict(self._constants)


def text(value, size=16):
    """A string as a field of the C struct."""
    return value.encode("utf-8", "surrogateescape")[: size - 1].ljust(size, b"\0")


def cgroup_id(path):
    """The number of a cgroup by its path below the mount point; of one that is not there, as the
    data has it.
    """
    if isinstance(path, int):
        return path
    return os.stat("/sys/fs/cgroup" + path.rstrip("/")).st_ino if path else 0


def losses(data):
    return [
        (entry["at"], {name: value for name, value in entry.items() if name != "at"})
        for entry in data.get("losses", ())
    ]


def delays(world, module, data):
    """data: {"names": the delays that the kernel keeps, "accounts": [{"at": seconds, "NUMBER":
    {delay: [count, total ns]}}]}, of PIDs and TIDs; a total that overflowed is null."""
    from crisis.net import taskstats

    class Taskstats:
        names = data.get("names", taskstats.DELAYS)

        def read(self, numbers, threads=False):
            now = [entry for entry in data["accounts"] if entry["at"] <= world.seconds()][-1]
            return {
                number: tuple(
                    value or 0
                    for name in self.names
                    for value in now[str(number)].get(name, (0, 0))
                )
                for number in numbers
                if str(number) in now
            }

    taskstats.Taskstats = Taskstats


def nicstat(world, module, data):
    """data: {"links": [{"at": seconds, "NAME": {"index", "up", "state", "ethernet", "loopback",
    "speed", "duplex", "queue", and the counters}}]}; counters that are missing are 0, names that
    are missing are not there. "netns": {"NAME": the same for another network namespace, or null for
    one that has gone since it was listed}; it has the machine's TCP and UDP."""
    from contextlib import nullcontext

    from crisis.net import link as links
    from crisis.net import observer, protocols

    if data is None:
        return

    def link(netns, name, fields):
        made = links.Link()
        made.netns, made.name, made.index = netns, name, fields["index"]
        made.up, made.state = fields.get("up", True), fields.get("state", "up")
        made.loopback, made.ethernet = name == "lo", fields.get("ethernet", True)
        made.speed = fields.get("speed")
        made.full = {None: None, "full": True, "half": False}[fields.get("duplex")]
        return made

    class Links:
        def __init__(self, netns=None, speeds=None):
            if netns is not None and data["netns"].get(netns) is None:
                raise FileNotFoundError(2, "No such file or directory", netns)
            self._netns, self._speeds = netns, speeds or {}
            self._links = data["links"] if netns is None else data["netns"][netns]

        def _now(self):
            now = [entry for entry in self._links if entry["at"] <= world.seconds()][-1]
            return {name: fields for name, fields in now.items() if name != "at"}

        def _link(self, name, fields):
            made = link(self._netns, name, fields)
            made.speed, made.full = self._speeds.get(name, (made.speed, made.full))
            return made

        def links(self):
            made = [self._link(name, fields) for name, fields in self._now().items()]
            return {one.index: one for one in made}

        def read(self):
            found = {}
            for name, fields in self._now().items():
                queue = fields.get("queue")
                if queue:
                    queue = links.Queue(
                        *(queue[key] for key in ("packets", "bytes", "drops", "requeues"))
                    )
                counters = tuple(fields.get(counter, 0) for counter in links.COUNTERS)
                found[fields["index"]] = links.Sample(self._link(name, fields), counters, queue)
            return found

    links.Links = observer.Links = Links
    observer.namespaces = lambda: list(data.get("netns", ()))
    protocols.entered = lambda netns: nullcontext()


def use(world, module, data):
    """data: "links" as nicstat's, null where a sandbox has no rtnetlink; "descriptors": {"PID":
    open files, null where that is not permitted}."""
    from crisis.net import observer, rtnl
    from crisis.use import tables

    nicstat(world, module, data)

    def samples():
        if data["links"] is None:
            raise OSError(93, "Protocol not supported")
        found = observer.Links().read()
        for sample in found.values():
            sample.link.speed = sample.link.full = None
        return found

    rtnl.samples = samples
    tables.descriptors = lambda pid: data["descriptors"].get(str(pid), 0)


def runqlat(world, module, data):
    """data: {"intervals": [{"waits": [{"pid", "tid", "comm", "cpu", "cgroup", "pidns", "us":
    [[time, how many]]}], "threads": [{"tid", "pid", "comm", "us", "run_ms", "at", "front_tid",
    "front_comm"}]}], "losses": [{"at", ...}]}."""
    if data is None:
        return
    from crisis import hist

    intervals = iter(data["intervals"])

    def histogram(waits, slots, comm=""):
        counts, total, most, milliseconds = [0] * slots, 0, 0, program.params["milliseconds"]
        for us, number in (pair for wait in waits for pair in wait["us"]):
            value = int(us / (1000 if milliseconds else 1) * (1 << hist.FRACTION))
            counts[min(hist.bucket(value, program.params["shift"]), slots - 1)] += number
            total, most = total + int(us * 1000) * number, max(most, int(us * 1000))
        return struct.pack(f"=QQQ16s{slots}Q", sum(counts), total, most, text(comm), *counts)

    def fill(bank):
        interval = next(intervals, {})
        slots, key, groups = program.params["slots"], program.params["key"], {}
        for wait in interval.get("waits", ()):
            number = {0: wait["cpu"], 1: wait["pid"], 2: wait["tid"], 3: wait["pidns"]}.get(key)
            name = (
                struct.pack("=QQ", cgroup_id(wait["cgroup"]) if key == 4 else number, 0)
                if key != 5
                else text(wait["comm"])
            )
            groups.setdefault((name, wait["cpu"] if not key else None), []).append(wait)
        for (name, cpu), waits in groups.items():
            if key:
                maps["key_hists"].update(
                    name + struct.pack("=Q", bank),
                    histogram(waits, slots, waits[-1]["comm"] if key in (1, 2, 5) else ""),
                )
            else:
                maps["cpu_hists"].update(
                    struct.pack("=I", bank * program.params["cpus"] + cpu), histogram(waits, slots)
                )
        for thread in interval.get("threads", ()):
            times = [int(us * 1000) for us, number in thread["us"] for _ in range(number)]
            maps["waiters"].update(
                struct.pack("=II", thread["tid"], bank),
                struct.pack(
                    "=QQQQQII16s16s",
                    len(times),
                    sum(times),
                    max(times, default=0),
                    world.now - int(1e9 * thread["ago"]),
                    int(thread["run_ms"] * 1e6),
                    thread["pid"],
                    thread["front_tid"],
                    text(thread["comm"]),
                    text(thread["front_comm"]),
                ),
            )

    class PerCpu(FakeMap):
        def lookup(self, key):
            return self.get(key, bytes(self.value_size))

    maps = {"bank": Bank(fill), "cpu_hists": PerCpu("cpu_hists")}
    program = Program(world, module, maps, losses(data))


def irqtime(world, module, data):
    """data: {"intervals": [{"interrupts": [{"kind": line, vector or soft, "number", "cpu",
    "handler" (its name), "cgroup" (of the tasks), "ns": [[time, how many]]}]}], "losses"}."""
    if data is None:
        return
    from crisis import hist

    intervals, kinds = iter(data["intervals"]), ("line", "vector", "soft")
    module.COUNTERS = module.SOURCES["lines"].counters

    def fill(bank):
        slots, unit = program.params["slots"], 1 if program.params["nanoseconds"] else 1000
        for entry in next(intervals, {}).get("interrupts", ()):
            wanted = program.params["cgroup"] in (0, cgroup_id(entry.get("cgroup")))
            if not wanted or not program.params["kinds"] >> kinds.index(entry["kind"]) & 1:
                continue
            counts, total, most = [0] * max(slots, 64), 0, 0
            for ns, number in entry["ns"]:
                counts[hist.bucket(ns // unit, 0)] += number
                total, most = total + ns * number, max(most, ns)
            handler = text(entry.get("handler", ""), 64)
            key = struct.pack(
                "=4IQ",
                kinds.index(entry["kind"]),
                entry["number"],
                entry["cpu"],
                bank,
                zlib.crc32(handler),  # in place of an address
            )
            value = sum(counts), total, most, handler, *counts[:slots]
            maps["sources"].update(key, struct.pack(f"=3Q64s{slots}Q", *value))

    maps = {"bank": Bank(fill)}
    program = Program(world, module, maps, losses(data))


hardirqs = softirqs = irqtime


class Array(FakeMap):
    """An array map: what was never written is zero."""

    def lookup(self, key):
        return self.get(key, bytes(self.value_size))


def since(world, events):
    """A function that gives those of the events that have happened since it was called before."""
    given = []

    def new():
        found = [event for event in events if event["at"] <= world.seconds() and event not in given]
        given.extend(found)
        return found

    return new


def runqslower(world, module, data):
    """data: {"waits": [{"at", "us", "pid", "tid", "comm", "cpu", "prev_pid", "prev_tid",
    "prev_comm", "prev_us"}], "slices": [{"at", "pid", "tid", "comm", "cpu", "off_us", "wait_us",
    "us", "runnable", "preempted"}], "losses": [...]}."""
    if data is None:
        return

    def wait(entry):
        return program.layouts["event"].pack(
            world_ns(entry["at"]),
            int(entry["us"] * 1000),
            int(entry["prev_us"] * 1000),
            entry["pid"],
            entry["tid"],
            entry["prev_pid"],
            entry["prev_tid"],
            entry["cpu"],
            text(entry["comm"]),
            text(entry["prev_comm"]),
        )

    def piece(entry):
        return program.layouts["slice"].pack(
            world_ns(entry["at"]),
            int(entry["off_us"] * 1000),
            int(entry["wait_us"] * 1000),
            int(entry["us"] * 1000),
            entry["pid"],
            entry["tid"],
            entry["cpu"],
            entry.get("runnable", False),
            entry.get("preempted", False),
            text(entry["comm"]),
        )

    class Events(Ring):
        """Those that the program sends: the waits, or the slices."""

        def read(self):
            wanted = "slice" if program.params["timehist"] else "event"
            return [raw for raw in super().read() if len(raw) == program.layouts[wanted].size]

    maps = {
        "events": Events(
            world,
            [(entry["at"], lambda entry=entry: wait(entry)) for entry in data["waits"]]
            + [(entry["at"], lambda entry=entry: piece(entry)) for entry in data["slices"]],
        )
    }
    program = Program(world, module, maps, losses(data))


def tsa(world, module, data):
    """data: {"readings": [{"at", "threads": [{"tid", "pid", "comm", "kernel", "state", "since":
    seconds, "utime_ms", "stime_ms", and STATE_ms of each state that has ended}]}], "calls": [{"at",
    "pid", "tid", "call" or "number", "state", "count", "ms"}], "losses": [...]}."""
    if data is None:
        return
    from crisis.kernel import call_numbers
    from crisis.sched import states

    given = set()

    def fill(bank):
        for i, entry in enumerate(data["calls"]):
            if entry["at"] > world.seconds() or i in given:
                continue
            given.add(i)
            number = entry.get("number")
            if number is None:
                number = call_numbers.numbers("x86_64")[entry["call"]][0]
            maps["calls"].update(
                struct.pack(
                    "=IIiII",
                    entry["pid"],
                    entry["tid"] if program.params["by_thread"] else 0,
                    number,
                    states.TRACED.index(entry["state"]),
                    bank,
                ),
                struct.pack("=QQ", entry["count"], int(entry["ms"] * 1e6)),
            )

    def iterate(function, target):
        assert (function, target) == ("on_task", "task")
        reading = [one for one in data["readings"] if one["at"] <= world.seconds()][-1]
        for entry in reading["threads"]:
            ns = [int(entry.get(f"{state}_ms", 0) * 1e6) for state in states.TRACED]
            maps["threads"].update(
                struct.pack("=I", entry["tid"]),
                struct.pack(
                    "=QQQQIIiIQQiiQ16s16Q",
                    world.now,
                    world_ns(entry["since"]),
                    int(entry.get("utime_ms", 0) * 1e6),
                    int(entry.get("stime_ms", 0) * 1e6),
                    entry["pid"],
                    states.TRACED.index(entry["state"]),
                    -1,
                    entry.get("kernel", False),
                    *[0] * 5,
                    text(entry["comm"]),
                    *ns,
                    *[0] * (16 - len(ns)),
                ),
            )
        return b""

    call_numbers.names.__defaults__ = ("x86_64",)
    maps = {
        "bank": Bank(fill),
        "threads": FakeMap("threads"),
        "calls": FakeMap("calls"),
        "classes": FakeMap("classes"),
    }
    program = Program(world, module, maps, losses(data))
    program.iterate = iterate


def drsnoop(world, module, data):
    """data: {"reclaims": [{"at" (of its end), "kind", "comm", "pid", "tid", "uid", "ms",
    "reclaimed", "scanned", "free" (pages, or null), "order", "gfp", "cgroup", "kswapd", "stack"
    (addresses)}], "under_way": number, "losses": [...], "constants": {...}}."""
    if data is None:
        return
    from crisis import hist

    unknown = (1 << 64) - 1

    def event(entry):
        stack = (
            [int(address, 16) for address in entry.get("stack", ())]
            if program.params["stack"]
            else []
        )
        free = entry.get("free")
        return RECLAIM.pack(
            world_ns(entry["at"]),
            int(entry["ms"] * 1e6),
            entry["reclaimed"],
            entry["scanned"],
            unknown if free is None else free,
            cgroup_id(entry.get("cgroup")),
            KINDS.index(entry["kind"]),
            entry["order"],
            entry["gfp"],
            entry["pid"],
            entry["tid"],
            entry["uid"],
            text(entry["comm"]),
            entry.get("kswapd", "").encode(),
            8 * len(stack),
        ) + struct.pack(f"={len(stack)}Q", *stack)

    def fill(bank):
        slots, shift = program.params["slots"], program.params["shift"]
        found = new()
        for number, kind in enumerate(KINDS):
            counts, times = [0] * slots, [int(e["ms"] * 1e6) for e in found if e["kind"] == kind]
            for ns in times:
                counts[min(hist.bucket((ns << hist.FRACTION) // 1000, shift), slots - 1)] += 1
            maps["hists"].update(
                struct.pack("=I", bank * len(KINDS) + number),
                struct.pack(
                    f"=QQQ{slots}Q", len(times), sum(times), max(times, default=0), *counts
                ),
            )
        totals = {}
        for entry in found:
            totals.setdefault((entry["pid"], KINDS.index(entry["kind"])), []).append(entry)
        for (pid, kind), entries in totals.items():
            times = [int(entry["ms"] * 1e6) for entry in entries]
            maps["totals"].update(
                struct.pack("=III", pid, kind, bank),
                struct.pack(
                    "=QQQQQ16s",
                    len(times),
                    sum(times),
                    max(times),
                    sum(entry["reclaimed"] for entry in entries),
                    sum(entry["scanned"] for entry in entries),
                    text(entries[-1]["comm"]),
                ),
            )

    KINDS, new = ("global", "memcg", "node"), since(world, data["reclaims"])
    maps = {
        "bank": Bank(fill),
        "hists": Array("hists"),
        "totals": FakeMap("totals"),
        "starts": FakeMap("starts"),
        "events": Ring(
            world, [(entry["at"], lambda entry=entry: event(entry)) for entry in data["reclaims"]]
        ),
    }
    for number in range(data.get("under_way", 0)):
        maps["starts"].update(struct.pack("=I", number), b"")
    program = Program(world, module, maps, losses(data), data.get("constants"))


# What the programs write (lib/crisis/progs), in the order of the fields.
# drsnoop's struct event, and the size of the stack behind it
RECLAIM = struct.Struct("=6Q6I16s32sq")
KILL = struct.Struct("=8Q6Iii16s16sq64Q")  # oomkill's struct event up to limit
LIMIT = struct.Struct("=4Q4I")  # its struct limit up to names
NAMES = struct.Struct("=II1536s")  # its struct names: 12 names of 128 bytes
RUN = struct.Struct("=6Q4I16s")  # cachesnoop's struct run
NAME_RECORD = struct.Struct("=3Q6I")  # struct name_record of page.bpf.h up to path


def world_ns(seconds):
    """The time of CLOCK_MONOTONIC `seconds` after the start."""
    from world import START

    return START + round(seconds * 1e9)


def oomkill(world, module, data):
    """data: {"kills": [{"at", "victim": {"pid", "tid", "comm", "uid", "oom_score_adj"}, "by":
    {"pid", "tid", "comm"}, "pages": {"anon", "file", "shmem", "swap", "total_vm"}, "pgtables",
    "cgroup" (path), "limit": {"constraint", "cgroup", "max", "usage", "totalpages", "order", "gfp",
    "exiting"}, "stack"}], "log": [{"at", "text", "facility"}], "losses"}. What is null or missing
    the program did not learn.  With "log", it saw no limit and the kernel log is read; its lines
    with a negative "at" are there from the start."""
    if data is None:
        return
    import socket

    constants = {
        "CONSTRAINT_" + name: number
        for number, name in enumerate(("NONE", "CPUSET", "MEMORY_POLICY", "MEMCG"))
    }
    unknown, victim_known, limit_known, exiting = (1 << 64) - 1, 1, 2, 4

    def levels(path):
        """struct names: from the cgroup to the root, each in its place."""
        parts = list(reversed([part for part in (path or "").split("/") if part]))
        return NAMES.pack(
            len(parts),
            0,
            b"".join(
                part.encode("utf-8", "surrogateescape").ljust(128, b"\0") for part in parts[:12]
            ),
        )

    def event(entry):
        victim, by, limit = entry["victim"], entry["by"], entry.get("limit")
        pages = [
            entry.get("pages", {}).get(name)
            for name in ("anon", "file", "shmem", "swap", "total_vm")
        ]
        memory = [unknown if value is None else value for value in pages + [entry.get("pgtables")]]
        flags = (victim_known if "comm" in victim else 0) | (limit_known if limit else 0)
        stack = (
            [int(address, 16) for address in entry.get("stack", ())]
            if program.params["stack"]
            else []
        )
        if limit and limit.get("exiting"):
            flags |= exiting
        raw = KILL.pack(
            world_ns(entry["at"]),
            *memory,
            1 if entry.get("cgroup") else 0,
            flags,
            victim["pid"],
            victim["tid"],
            victim.get("uid", 0),
            by["pid"],
            by["tid"],
            victim.get("oom_score_adj", 0),
            0,
            text(victim.get("comm", "")),
            text(by["comm"]),
            8 * len(stack),
            *stack,
            *[0] * (64 - len(stack)),
        )
        limit = limit or {}
        raw += LIMIT.pack(
            0,
            limit.get("max", 0),
            limit.get("usage", 0),
            limit.get("totalpages", 0),
            constants.get(limit.get("constraint"), 0),
            limit.get("order", 0) & 0xFFFFFFFF,
            limit.get("gfp", 0),
            flags,
        )
        return raw + levels(limit.get("cgroup")) + levels(entry.get("cgroup"))

    maps = {
        "events": Ring(
            world, [(entry["at"], lambda entry=entry: event(entry)) for entry in data["kills"]]
        )
    }
    taken = (
        ["tracepoint/oom:mark_victim"]
        if "log" in data
        else ["fentry/oom_kill_process", "tp_btf/mark_victim"]
    )
    program = Program(world, module, maps, losses(data), constants, taken)
    if "log" in data:
        reader, writer = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        reader.setblocking(False)
        world.log = reader, writer  # which would be closed with their last reference
        opened, seek = os.open, os.lseek
        os.open = lambda path, *rest, **more: (
            reader.fileno() if path == "/dev/kmsg" else opened(path, *rest, **more)
        )
        os.lseek = lambda fd, *rest: 0 if fd == reader.fileno() else seek(fd, *rest)
        for line in data["log"]:
            prefix = f"{line.get('facility', 0) << 3 | 6},1,{world_ns(line['at']) // 1000},-"
            record = f"{prefix};{line['text']}\n SUBSYSTEM=x\n".encode("utf-8", "surrogateescape")
            if line["at"] < 0:
                writer.send(record)
            else:
                world.at(line["at"], lambda record=record: writer.send(record))


def device_of(file):
    """The device of a file, {"dev": [major, minor], ...}, as the kernel's dev_t."""
    major, minor = file["dev"]
    return major << 20 | minor


def name_record(file, number):
    """The record of struct name_record of a file as cachesnoop's data has it; number: its name."""
    parts = b"".join(
        part.encode("utf-8", "surrogateescape") + b"\0"
        for part in reversed((file["path"] or "").split("/"))
        if part
    )
    return (
        NAME_RECORD.pack(
            file["inode"],
            file["ino"],
            number,
            device_of(file),
            0,
            file["mode"],
            file.get("deleted", False),
            file.get("cut", False),
            len(parts),
        )
        + parts
    )


def cachestat(world, module, data):
    """data: {"files": as for cachesnoop, "intervals": [[{"file", "pid", "comm", "cgroup", "cpu",
    and members of struct counts}]], "losses": [...], "taken": places of probes}.  Members that
    are missing are 0."""
    if data is None:
        return
    intervals, totals = iter(data["intervals"]), {}

    class Totals(FakeMap):
        def read_per_cpu(self, key):
            """Before the bank is switched, the events of the interval are in the sums."""
            begin()
            return [totals.get(cpu, (0,) * len(members)) for cpu in (0, 1)]

    def begin():
        """Take the next interval, if its time has come."""
        if world.now > taken[-1][0]:
            taken.append((world.now, next(intervals, [])))
            for entry in taken[-1][1]:
                before = totals.get(entry["cpu"], (0,) * len(members))
                totals[entry["cpu"]] = tuple(map(sum, zip(before, counts(entry))))

    def counts(entry):
        return [entry.get(member, 0) for member in members]

    def key_of(entry, file):
        return {
            "file": (file["inode"], file["ino"]),
            "process": (entry["pid"], 0),
            "cgroup": (cgroup_id(entry["cgroup"]), 0),
            "fs": (device_of(file), file["mode"] & 0o170000 == 0o060000),
        }[BY[program.params["by"]]]

    def fill(bank):
        if not program.params["by"]:
            return
        groups = {}
        for entry in taken[-1][1]:
            file = data["files"][entry["file"]]
            groups.setdefault(key_of(entry, file), []).append((entry, file))
        for key, found in groups.items():
            entry, file = found[-1]
            sums = map(sum, zip(*(counts(entry) for entry, _ in found)))
            comm = text(entry["comm"] if BY[program.params["by"]] == "process" else "")
            maps["groups"].update(
                struct.pack("=QQQ", *key, bank),
                program.layouts["group"].pack(
                    *sums, device_of(file), file["mode"] & 0o170000, comm
                ),
            )

    BY = ("none", "file", "process", "cgroup", "fs")
    taken = [(world.now, [])]
    named = [
        (second + 0.1, lambda file=file, number=number: name_record(file, number))
        for second in range(len(data["intervals"]))  # in each bank anew
        for number, file in enumerate(data["files"].values(), 1)
        if not file.get("unknown")
    ]
    maps = {
        "bank": Bank(fill),
        "totals": Totals("totals"),
        "groups": FakeMap("groups"),
        "names": Ring(world, named),
    }
    places = data.get("taken", ("fentry/filemap_map_pages",))
    program = Program(world, module, maps, losses(data), taken=places)
    members = program.layouts["counts"].fields


def cachesnoop(world, module, data):
    """data: {"files": {"NAME": {"inode", "ino", "dev": [major, minor], "mode", "path" (null: none),
    "deleted", "cut"}}, "runs": [{"at", "since", "kind": add or evict, "file", "offset" (page),
    "pages", "pid", "tid", "comm", "pending" (true: it had not ended)}], "losses": [...],
    "pages_lost": number}."""
    if data is None:
        return
    import _thread

    # the search for a name, at once
    _thread.start_new_thread = lambda function, arguments: function(*arguments)
    kinds, number_of = (
        ("add", "evict"),
        {name: number for number, name in enumerate(data["files"], 1)},
    )

    def run(entry):
        file = data["files"][entry["file"]]
        return RUN.pack(
            world_ns(entry["since"]),
            file["inode"],
            file["ino"],
            number_of[entry["file"]],
            entry["offset"],
            entry["pages"],
            entry["pid"],
            entry["tid"],
            device_of(file),
            kinds.index(entry["kind"]),
            text(entry["comm"]),
        )

    def fill(bank):
        found = new()
        if program.params["summary"]:
            sums = {}
            for entry in found:
                if wanted(entry):
                    pages = sums.setdefault(entry["file"], [0, 0])
                    pages[kinds.index(entry["kind"])] += entry["pages"]
            for name, (added, evicted) in sums.items():
                file = data["files"][name]
                maps["files"].update(
                    struct.pack("=QQQQ", file["inode"], file["ino"], number_of[name], bank),
                    struct.pack("=QQQ", added, evicted, device_of(file)),
                )
        else:
            for entry in found:
                if entry.get("pending") and wanted(entry):
                    maps["runs"].update(
                        struct.pack("=IIII", entry["tid"], kinds.index(entry["kind"]), bank, 0),
                        run(entry),
                    )

    def wanted(entry):
        return entry["kind"] == "add" or program.params["evictions"]

    class Events(Ring):
        def read(self):
            return [
                raw
                for raw in super().read()
                if raw[-20:-16] == bytes(4) or program.params["evictions"]
            ]

    new = since(world, data["runs"])
    named = [
        (
            min([entry["since"] for entry in data["runs"] if entry["file"] == name] or [0]),
            lambda name=name: name_record(data["files"][name], number_of[name]),
        )
        for name, file in data["files"].items()
        if not file.get("unknown")
    ]
    maps = {
        "bank": Bank(fill),
        "runs": FakeMap("runs"),
        "files": FakeMap("files"),
        "lost_pages": Array("lost_pages"),
        "names": Ring(world, named),
        "events": Events(
            world,
            [
                (entry["at"], lambda entry=entry: run(entry))
                for entry in data["runs"]
                if not entry.get("pending")
            ],
        ),
    }
    for entry in data.get("losses", ()):
        if "pages_lost" in entry:
            world.at(
                entry["at"],
                lambda entry=entry: maps["lost_pages"].update(
                    bytes(4), struct.pack("=Q", entry["pages_lost"])
                ),
            )
    program = Program(
        world,
        module,
        maps,
        [
            (at, {name: value for name, value in found.items() if name != "pages_lost"})
            for at, found in losses(data)
        ],
    )


def count_events(world, rate_of, data, alike=False):
    """Let perf_event_open(2) count: rate_of(event) is the number a second, None for an event that
    is refused.

    data: "most": events that fit into a group; "running": share of the time that a group is
      counted. CPU n counts n % 4 + 1 times as many, unless all are alike; a thread as many as CPU
      0.
    """
    import errno

    from crisis.kernel import sysfs
    from crisis.perf import group

    class Group:
        def __init__(self, events, pid=-1, cpu=-1, bits=0, flags=0):
            self.fds, self.whole_cpu, self.cpu, self.begin = list(events), pid == -1, cpu, None
            self.rates = [rate_of(event) for event in self.fds]
            if None in self.rates:
                raise OSError(errno.ENOENT, "No such event")
            if len(self.fds) > data.get("most", 100):
                raise OSError(errno.EINVAL, "Invalid argument")

        def enable(self):
            self.begin = world.now

        def read(self):
            if self.cpu >= 0 and self.cpu not in sysfs.online_cpus():
                return None
            ns = world.now - self.begin
            running = int(ns * data.get("running", 1))
            # Opening it, layout() looks whether it is counted at all: a nanosecond more, and one
            # event.
            times = 1 if alike else max(self.cpu, 0) % 4 + 1
            return (ns + 1, running + 1) + tuple(
                rate * running * times // 10**9 + 1 for rate in self.rates
            )

        def close(self):
            pass

    for name in "__init__", "enable", "read", "close":  # of the class that others have imported
        setattr(group.Group, name, getattr(Group, name))


def pmcarch(world, module, data):
    """data: {"rates": {counter: events a second of CPU 0}, "refused": [counter], and as for
    count_events}.
    """
    if data is None:
        return
    from crisis.pmu import session

    real, rates = session.plan, {}

    def plan(*arguments, **options):
        plans, unknown = real(*arguments, **options)
        for one in plans:
            flat = [event for cluster in one.clusters for event in cluster]
            for counter, parts in one.parts.items():
                for index, divisor in parts:
                    event = flat[index]
                    rate = (
                        None
                        if counter in data.get("refused", ())
                        else data["rates"][counter] * divisor // len(parts)
                    )
                    rates.setdefault((event.type, event.config, event.config1), rate)
        return plans, unknown

    count_events(world, lambda event: rates[event.type, event.config, event.config1], data)
    session.plan = plan


cpucache = icache = tlbstat = resstalls = pmcarch


def tiptop(world, module, data):
    """data: {"tasks": {TID: {"cpu": its share of a CPU, "speed": how its rates differ, "until":
    seconds when it ends, "user": false for one that is in the kernel only}}, "rates": {counter:
    events a second on a CPU}, "pmus": {type: share of the time on its CPUs}, "not_permitted":
    [TID], "files": limit of open files, and as for pmcarch}.
    """
    import errno

    from crisis.kernel import rlimit
    from crisis.perf import group
    from crisis.pmu import tasks

    real, names, opened = tasks.plan, {}, []

    def plan(*arguments, **options):
        plans, unknown = real(*arguments, **options)
        for one in plans:
            flat = [event for cluster in one.clusters for event in cluster]
            for counter, parts in one.parts.items():
                for index, _ in parts:
                    names[flat[index].type, flat[index].config] = counter, 1 / len(parts), one
        return plans, unknown

    class Group:
        def __init__(self, events, pid=-1, cpu=-1, bits=0, flags=0):
            self.fds, self.whole_cpu, self.pid = [], False, pid
            self.found = [names[event.type, event.config] for event in events]
            if any(counter in data.get("refused", ()) for counter, _, _ in self.found):
                raise OSError(errno.ENOENT, "No such event")
            if len(self.found) > data.get("most", 100):
                raise OSError(errno.EINVAL, "Invalid argument")
            if pid in data.get("not_permitted", ()):
                raise OSError(errno.EACCES, "Permission denied")
            if pid and len(opened) + len(self.found) > data.get("files", 10**6):
                raise OSError(errno.EMFILE, "Too many open files")
            self.fds, self.last = list(self.found), (1,) * (2 + len(self.found))
            if pid:
                opened.extend(self.fds)

        def enable(self):
            self.begin = world.now

        def read(self):
            if not self.pid:  # layout() looks whether it counts
                return self.last
            task = data["tasks"][str(self.pid)]
            end = min(world.seconds(), task.get("until", 1e9))
            begin = (self.begin - world.now) / 1e9 + world.seconds()
            ns = round(max(end - begin, 0) * task["cpu"] * 1e9)
            share = data.get("pmus", {}).get(str(self._type()), 1) * data.get("running", 1)
            speed = task.get("speed", 1) if task.get("user", True) else 0
            counts = [
                round(data["rates"][counter] * part * speed * ns * share / 1e9)
                for counter, part, _ in self.found
            ]
            return (ns, round(ns * share), *counts)

        def _type(self):
            from crisis.perf.event_source import pmu_type

            return pmu_type(self.found[0][2].pmu)

        def close(self):
            if self.pid:
                del opened[: len(self.fds)]
            self.fds = []

    for name in "__init__", "enable", "read", "close", "_type":
        setattr(group.Group, name, getattr(Group, name))
    rlimit.most_open_files = lambda: data.get("files", 20000)
    tasks.plan = plan


class Pages:
    """The page cache: of each file in the working directory a letter for each page.

    O resident, D dirty, W under writeback, L resident and locked by somebody; e evicted, r evicted
    recently, . never there; ? of a file: the kernel does not report it.
    """

    def __init__(self, world, data):
        self.files = {}
        for name, pages in data["files"].items():
            path = os.path.join(os.getcwd(), name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            content = data.get("contents", {}).get(name)
            with open(path, "wb") as f:
                f.write(
                    content.encode()
                    if content
                    else b"x" * data.get("sizes", {}).get(name, 4096 * len(pages))
                )
            os.utime(path, ns=(10**18, 10**18))
            self.files[os.stat(path).st_ino] = list(pages)
        for change in data.get("changes", ()):
            world.at(change["at"], lambda change=change: self._change(change))
        for pid, process in data.get("processes", {}).items():
            self._process(os.path.join(world.root, "proc", pid), process)

    @staticmethod
    def _process(directory, process):
        """What /proc/PID has of the files that a process has open and mapped."""
        os.makedirs(directory + "/fd", exist_ok=True)
        for number, name in enumerate(process.get("open", ()), 3):
            os.symlink(os.path.join(os.getcwd(), name), f"{directory}/fd/{number}")
        with open(directory + "/maps", "w") as f:
            for number, name in enumerate(process.get("mapped", ()), 0x7F000):
                st = os.stat(name)
                f.write(
                    f"{number:x}000-{number + 1:x}000 r--s 00000000 "
                    f"{os.major(st.st_dev):02x}:{os.minor(st.st_dev):02x} {st.st_ino}    "
                    f"{os.path.realpath(name)}\n"
                )
        with open(directory + "/comm", "w") as f:
            f.write(process["comm"] + "\n")

    def _change(self, change):
        for name, pages in change.items():
            if name == "at":
                continue
            if pages is None:
                os.remove(name)
            else:
                self.files[os.stat(name).st_ino] = list(pages)

    def of(self, fd):
        return self.files[os.fstat(fd).st_ino]

    def advise(self, fd, offset, length, advice):
        if advice != os.POSIX_FADV_DONTNEED:
            return
        # A page that is only in part in the range stays, but for the last one of the file.
        pages, size = self.of(fd), os.fstat(fd).st_size
        end = offset + length
        last = len(pages) if not length or end >= size else end // 4096
        for page in range(-(-offset // 4096), last):
            pages[page] = "e" if pages[page] in "OD" else pages[page]

    def read(self, fd, buffers, offset):
        count = min(sum(map(len, buffers)), max(os.fstat(fd).st_size - offset, 0))
        pages = self.of(fd)
        for page in range(offset // 4096, (offset + count + 4095) // 4096):
            pages[page] = pages[page] if pages[page] in "ODWL" else "O"
        return count


def pagecache(world, module, data):
    """data: {"files": {"NAME": pages}, "sizes": {"NAME": bytes}, "contents": {"NAME": text},
    "changes": [{"at", "NAME": pages, or null: removed}], "processes": {"PID": {"comm", "open":
    [NAME], "mapped": [NAME]}}, "owners": {"NAME": {cgroup: pages}}}."""
    if data is None:
        return
    from crisis.memory import owners, page_cache, survey

    cache = Pages(world, data)
    os.posix_fadvise, os.preadv, os.fdatasync = (
        cache.advise,
        cache.read,
        lambda fd: cache.of(fd).__setitem__(
            slice(None), ["O" if page in "DW" else page for page in cache.of(fd)]
        ),
    )

    class Residency:
        def __init__(self, force_cachestat=False):
            pass

        def measure(self, fd, st, size):
            return self.range(fd, 0, size)

        def measure_range(self, fd, st, start, end):
            return self.range(fd, start, end - start)

        def range(self, fd, offset, length):
            pages = cache.of(fd)[offset // 4096 : (offset + length + 4095) // 4096]
            if "?" in pages:
                return None
            return (
                sum(map(pages.count, "ODWL")),
                pages.count("D"),
                pages.count("W"),
                pages.count("e") + pages.count("r"),
                pages.count("r"),
            )

        def is_hugetlb(self, fd, st):
            return False

        def counts_ranges(self, fd, st):
            return True

        def in_memory_only(self, st):
            return False

        def vectors(self, fd, size, ranges=None):
            if "?" in cache.of(fd):
                yield 0, None
                return
            for start, end in [(0, size)] if ranges is None else ranges:
                yield (
                    start,
                    bytearray(
                        page in "ODWL"
                        for page in cache.of(fd)[start // 4096 : (end + 4095) // 4096]
                    ),
                )

    class Owners:
        def count(self, fd, size):
            pages = cache.of(fd)
            if "?" in pages:
                raise PermissionError(1, "Operation not permitted")
            name = os.path.relpath(os.readlink(f"/proc/self/fd/{fd}"), os.getcwd())
            return {
                cgroup_id(path): number
                for path, number in data.get("owners", {}).get(name, {}).items()
            }

    page_cache.Residency = survey.Residency = Residency
    owners.Owners = Owners
    page_cache.data_ranges = lambda fd, size: [(0, size)] if size else []


fincore = pagecache


def crisis_merge(world, module, data):
    """data: {"hosts": {host: output of tests/expected, or lines}, "lines": further lines, "files":
    {name: lines}}.
    """
    text = "".join(line + "\n" for line in data.get("lines", ()))
    for host, lines in data.get("hosts", {}).items():
        if isinstance(lines, str):
            with open(os.path.join(os.path.dirname(__file__), "expected", lines)) as f:
                lines = f.read().splitlines()
        text += "".join(f"{host}: {line}\n" for line in lines)
    for name, lines in data.get("files", {}).items():
        with open(name, "w") as f:
            f.write("".join(line + "\n" for line in lines))
    with open("input", "w") as f:
        f.write(text)
    os.dup2(os.open("input", os.O_RDONLY), 0)


crisis_heat = crisis_merge


def crisis_warm(world, module, data):
    """data: {"programs": {"NAME": {"state": cached, compiled, missing, failed or refused, "why"}},
    "archive": [NAME]}."""
    if data is None:
        return
    from crisis import bpf, errors
    from crisis.bpf import archive, cache, compiler, object

    def entry(source):
        source.compiler = "bcc 0.26.0"
        return data["programs"].get(source.name, {"state": "cached"})

    class Compiler:
        def __init__(self, sources, jobs):
            self.left = list(sources)

        def outcomes(self):
            while self.left:
                source = self.left.pop(0)
                failed = entry(source)["state"] == "failed"
                yield source, errors.Error(entry(source)["why"]) if failed else source

    def check(source):
        found = entry(source)
        if found["state"] == "refused":
            raise bpf.Refused(found["why"])
        if found["state"] == "unavailable":
            raise errors.Unavailable(found["why"])
        return found.get("not_taken", [])

    bpf.check_permission, bpf.check = lambda: None, check
    cache.cached = lambda source, note: (
        source if entry(source)["state"] in ("cached", "refused", "unavailable") else None
    )
    archive.digest = lambda source: source.name
    archive.read = lambda path: {
        name: types.SimpleNamespace(name=name, compiler="bcc 0.35.0") for name in data["archive"]
    }
    compiler.Compiler = Compiler
    cache.keep, object.unpack = (
        lambda source, data: entry(source).get("not_kept"),
        lambda data: data,
    )


def crisis_check(world, module, data):
    """data: {"commands": [name], "sources": {name: {"no" or "unknown" or "works": why or note}},
    "files": [name of a check that runs on the tree], "tools": [name], "family", "uncompiled":
    [program]}: what the kernel answered, and what is installed; all other sources work."""
    if data is None:
        return
    from crisis import errors
    from crisis.suite import checks, commands, kit, needs

    kinds = {"no": errors.Unavailable, "unknown": errors.NotPermitted}

    def scripted(entry):
        def check():
            ((state, text),) = entry.items()
            if state in kinds:
                raise kinds[state](text)
            return text

        return check

    for name in set(checks.CHECKS) - set(data.get("files", ())):
        checks.CHECKS[name] = scripted(data.get("sources", {}).get(name, {"works": ""}))
    commands.names = lambda here: data["commands"]
    kit.family = lambda root: data["family"]
    kit.find = lambda name, *ignored: "/usr/bin/" + name if name in data["tools"] else None

    class Everything(dict):
        def get(self, key):
            return 1

    needs.cached = lambda sources: {
        source.name: types.SimpleNamespace(unusable=None, ids=Everything(), maps=[])
        for source in sources
        if source.name not in data.get("uncompiled", ())
    }
    needs.cache.CACHE = "/proc/no-cache"


def wss(world, module, data):
    """data: {"pagemap": {"PID": [{"address", "frame", "pages", "exclusive"}]}}: the pages that are
    present.
    """
    for pid, runs in (data or {"pagemap": {}})["pagemap"].items():
        with open(f"{world.root}/proc/{pid}/pagemap", "wb") as f:  # with holes
            for run in runs:
                flags = 1 << 63 | (1 << 56 if run.get("exclusive") else 0)
                f.seek(int(run["address"], 16) // 4096 * 8)
                f.write(
                    struct.pack(
                        f"={run['pages']}Q",
                        *(flags | run["frame"] + n for n in range(run["pages"])),
                    )
                )


def showboost(world, module, data):
    """data: {"registers": [{"at", "CPU": {"0x10": value}}], "rates": {"PMU/EVENT/": a second},
    "loop": {"tsc_mhz", "translated", "CPU": [MHz or null of each measurement]}}: what
    /dev/cpu/CPU/msr has, what the events of the msr and cstate PMUs count, and what the timed loop
    measures; without "loop", memory must not become executable."""
    _time_loop(world, (data or {}).get("loop"))
    if data is None or set(data) == {"loop"}:
        return

    registers, cpus, real = data.get("registers", []), {}, (os.open, os.pread)

    def device(path, *arguments, **options):
        """An open() that knows /dev/cpu/CPU/msr."""
        parts = str(path).split("/")
        if (
            registers
            and parts[:3] == ["", "dev", "cpu"]
            and parts[4:] == ["msr"]
            and parts[3] in registers[0]
        ):
            fd = real[0](os.devnull, os.O_RDONLY)
            cpus[fd] = parts[3]
            return fd
        return real[0](path, *arguments, **options)

    def register(fd, size, offset):
        """A pread() of a register; its number is the offset, so that a file could not hold
        neighbouring ones.
        """
        if fd not in cpus:
            return real[1](fd, size, offset)
        now = [entry for entry in registers if entry["at"] <= world.seconds()][-1][cpus[fd]]
        if hex(offset) not in now:
            raise OSError(5, "Input/output error")
        return struct.pack("=Q", int(str(now[hex(offset)]), 0))

    os.open, os.pread = device, register
    count_events(world, lambda event: data["rates"].get(event.name), data, alike=True)


cputemp = cpuhot = showboost


def _time_loop(world, script):
    """Let the timed loop of showboost measure what a script has."""
    from crisis.cpu import loop
    from crisis.errors import Unavailable

    class Timer:
        def __init__(self):
            if script is None:
                raise Unavailable("memory must not become executable (Permission denied)")
            self.translated = script.get("translated", False)
            self.has_tsc = "tsc_mhz" in script
            self._values = {
                int(cpu): iter(values) for cpu, values in script.items() if cpu.isdigit()
            }

        def instant(self):
            return world.now, world.now * script["tsc_mhz"] // 1000 if self.has_tsc else None

        def measure(self, cpu, pairs):
            return next(self._values[cpu])

    loop.Timer = Timer


def memleak(world, module, data):
    """data: {"user": whether processes are traced, "comms": {"PID": comm}, "stacks": {"NAME":
    [frame], or null: lost}, "reports": [{"at", "groups": [{"pid", "stack", "bytes", "count",
    "bytes_variance", "count_variance", "blocks": [{"address", "bytes"}]}]}], "calls": [{"at",
    "pid", "tid", "comm", "call", "address", "bytes", "stack", "free"}], "losses"}.  A frame:
    {"address", "name", "offset", "module", "file_offset", "build_id", "inlined"}."""
    if data is None:
        return
    from crisis import cli
    from crisis.alloc.blocks import Group
    from crisis.alloc.kinds import CALLS
    from crisis.bpf import record
    from crisis.symbols.frame import Frame

    event = record.Layouts(LAYOUTS["memleak"]["structs"])["event"]
    numbers = {name: number for number, name in enumerate(data["stacks"], 1)}

    def frame(fields):
        made = Frame(
            int(fields["address"], 16),
            fields.get("name"),
            fields.get("offset"),
            fields.get("module"),
            fields.get("file_offset"),
            fields.get("build_id"),
        )
        made.inlined = fields.get("inlined", False)
        return made

    frames = {
        numbers[name]: stack and [frame(fields) for fields in stack]
        for name, stack in data["stacks"].items()
    }
    counters = dict.fromkeys(next(iter(module.SOURCES.values())).counters, 0)
    for seconds, values in losses(data):
        world.at(seconds, lambda values=values: counters.update(values))

    class Tracer:
        user, several = data["user"], len(data["comms"]) > 1
        program = types.SimpleNamespace(counters=lambda: dict(counters))

        def __init__(self, args):
            self._args = args

        def lost(self):
            return dict(counters)

        def outstanding(self):
            now = [report for report in data["reports"] if report["at"] <= world.seconds()][-1]
            return {
                (group["pid"], numbers[group["stack"]]): self._group(group)
                for group in now["groups"]
            }

        def _group(self, fields):
            made = Group(fields["bytes"], fields["count"])
            made.bytes_variance, made.count_variance = (
                fields.get("bytes_variance", 0),
                fields.get("count_variance", 0),
            )
            if self._args.show_allocs:
                made.blocks = [
                    (int(block["address"], 16), block["bytes"])
                    for block in fields.get("blocks", ())
                ]
            return made

        def comm(self, pid):
            return data["comms"].get(str(pid))

        def learn(self, keys):
            pass

        def frames(self, keys):
            return {key: frames[key[1]] for key in keys}

        def ends(self, keys):
            return dict.fromkeys(keys)

    def call(entry):
        kind = next(number for number, name in CALLS.items() if name == entry["call"])
        return event.make(
            ns=world_ns(entry["at"]),
            address=int(entry["address"], 16),
            size=entry["bytes"],
            stack=numbers.get(entry.get("stack"), 0),
            tgid=entry["pid"],
            tid=entry["tid"],
            kind=kind,
            freed=entry.get("free", False),
            comm=text(entry["comm"]),
        )

    def collect(args):
        tracer, new = Tracer(args), since(world, data.get("calls", []))
        for seconds in cli.ticks(args.interval, args.count):
            if args.trace:
                yield 0, tracer, [call(entry) for entry in new()]
            else:
                yield seconds, tracer, None

    module.collect = collect
