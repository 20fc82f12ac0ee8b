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

import os
import struct
import types


class FakeMap(dict):
    """A BPF map: bytes to bytes."""

    def __init__(self, name, max_entries=1, value_size=8):
        super().__init__()
        self.name, self.max_entries, self.value_size, self.fd = name, max_entries, value_size, -1
        self.ring = None

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
    """The map of one number that says which bank is written: at each change, the other one is filled."""

    def __init__(self, fill):
        super().__init__("bank")
        self._fill = fill

    def update(self, key, value, flags=0):
        super().update(key, value)
        self._fill(1 - struct.unpack("=I", value)[0])


class Ring:
    """A ring buffer: records arrive in their time."""

    def __init__(self, world, records):
        """records: [(seconds, bytes)]."""
        self.fd, writable = os.pipe()
        self._records = []

        def arrive(raw):
            self._records.append(raw)
            os.write(writable, b"r")
        for seconds, raw in records:
            world.at(seconds, lambda raw=raw: arrive(raw))

    def read(self):
        found, self._records = self._records, []
        if found:
            os.read(self.fd, len(found))
        return found


class Program:
    """A loaded bpf.Program.  maps, counters(), constants(), name, taken; params and sizes as the command asked for."""

    def __init__(self, world, module, maps, counters=(), constants=None, taken=("a place",)):
        """maps: {name: FakeMap, or Ring}.  counters: [(seconds, {name: total})]."""
        self.maps, self.taken, self.params, self.sizes, self.name = maps, list(taken), {}, {}, ""
        self._counters, self._constants = dict.fromkeys(getattr(module, "COUNTERS", ()), 0), constants or {}
        for seconds, values in counters:
            world.at(seconds, lambda values=values: self._counters.update(values))
        from crisis import bpf, syscalls

        def first(sources, build, params=None, sizes=None, verbose=lambda text: None):
            self.name, self.sizes = sources[0].name, sizes or {}
            self.params = params(types.SimpleNamespace(name=self.name, constants=self._constants)) \
                if callable(params) else params or {}
            for name, size in self.sizes.items():
                self.maps.setdefault(name, FakeMap(name))
                if isinstance(self.maps[name], FakeMap):
                    self.maps[name].max_entries = size.get("max_entries", 1)
                    self.maps[name].value_size = size.get("value_size", 8)
            verbose("%s: attached to %s" % (self.name, ", ".join(self.taken)))
            return self

        def no_mount(filesystem):
            raise OSError(19, "No such device")
        bpf.first, bpf.grace_period, bpf.RingBuffer = first, lambda: None, lambda map_: map_
        syscalls.detached_mount = no_mount

    def counters(self):
        return dict(self._counters)

    def constants(self):
        return dict(self._constants)


def text(value, size=16):
    """A string as a field of the C struct."""
    return value.encode("utf-8", "surrogateescape")[:size - 1].ljust(size, b"\0")


def cgroup_id(path):
    """The number of a cgroup by its path below the mount point; of one that is not there, as the data has it."""
    if isinstance(path, int):
        return path
    return os.stat("/sys/fs/cgroup" + path.rstrip("/")).st_ino if path else 0


def losses(data):
    return [(entry["at"], {name: value for name, value in entry.items() if name != "at"})
            for entry in data.get("losses", ())]


def delays(world, module, data):
    """data: {"since": [{"at": seconds, "PID": {delay: [count, total ns]}}]}; a delay that is missing is not kept."""
    from crisis.net import taskstats

    class Taskstats:
        def process(self, pid):
            now = [entry for entry in data["accounts"] if entry["at"] <= world.seconds()][-1]
            if str(pid) not in now:
                raise ProcessLookupError(3, "No such process")
            return {name: tuple(now[str(pid)].get(name, (None, None))) for name in taskstats.DELAYS}
    taskstats.Taskstats = Taskstats


def nicstat(world, module, data):
    """data: {"links": [{"at": seconds, "NAME": {"index", "up", "state", "ethernet", "speed", "duplex", "queue",
    and the counters}}]}; counters that are missing are 0, names that are missing are not there."""
    from crisis.net import link as links
    if data is None:
        return

    def link(name, fields):
        made = links.Link()
        made.netns = None
        made.name, made.index = name, fields["index"]
        made.up, made.state, made.ethernet = fields.get("up", True), fields.get("state", "up"), fields.get("ethernet", True)
        made.speed, made.full = fields.get("speed"), {None: None, "full": True, "half": False}[fields.get("duplex")]
        queue = fields.get("queue")
        made.queue = queue and tuple(queue[key] for key in ("packets", "bytes", "drops", "requeues"))
        made.counters = {counter: fields.get(counter, 0) for counter in links.COUNTERS}
        return made

    class Links:
        def __init__(self, netns):
            assert netns is None

        def read(self):
            now = [entry for entry in data["links"] if entry["at"] <= world.seconds()][-1]
            found = [link(name, fields) for name, fields in now.items() if name != "at"]
            return {made.index: made for made in found}
    links.Links = Links


def runqlat(world, module, data):
    """data: {"intervals": [{"waits": [{"pid", "tid", "comm", "cpu", "cgroup", "pidns", "us": [[time, how many]]}],
    "threads": [{"tid", "pid", "comm", "us", "run_ms", "at", "front_tid", "front_comm"}]}], "losses": [{"at", ...}]}."""
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
        return struct.pack("=QQQ16s%dQ" % slots, sum(counts), total, most, text(comm), *counts)

    def fill(bank):
        interval = next(intervals, {})
        slots, key, groups = program.params["slots"], program.params["key"], {}
        for wait in interval.get("waits", ()):
            number = {0: wait["cpu"], 1: wait["pid"], 2: wait["tid"], 3: wait["pidns"]}.get(key)
            name = struct.pack("=QQ", cgroup_id(wait["cgroup"]) if key == 4 else number, 0) if key != 5 else \
                text(wait["comm"])
            groups.setdefault((name, wait["cpu"] if not key else None), []).append(wait)
        for (name, cpu), waits in groups.items():
            if key:
                maps["key_hists"].update(name + struct.pack("=Q", bank), histogram(
                    waits, slots, waits[-1]["comm"] if key in (1, 2) else ""))
            else:
                maps["cpu_hists"].update(struct.pack("=I", bank * program.params["cpus"] + cpu), histogram(waits, slots))
        for thread in interval.get("threads", ()):
            times = [int(us * 1000) for us, number in thread["us"] for _ in range(number)]
            maps["waiters"].update(struct.pack("=II", thread["tid"], bank), struct.pack(
                "=QQQQQII16s16s", len(times), sum(times), max(times, default=0), world.now - int(1e9 * thread["ago"]),
                int(thread["run_ms"] * 1e6), thread["pid"], thread["front_tid"], text(thread["comm"]),
                text(thread["front_comm"])))

    class PerCpu(FakeMap):
        def lookup(self, key):
            return self.get(key, bytes(self.value_size))
    maps = {"bank": Bank(fill), "cpu_hists": PerCpu("cpu_hists")}
    program = Program(world, module, maps, losses(data))


def irqtime(world, module, data):
    """data: {"intervals": [{"interrupts": [{"kind": line, vector or soft, "number", "cpu", "ns": [[time, how many]]}]}],
    "losses": [...]}."""
    if data is None:
        return
    intervals = iter(data["intervals"])

    def fill(bank):
        slots = program.params["slots"]
        for entry in next(intervals, {}).get("interrupts", ()):
            counts, total, most = [0] * max(slots, 64), 0, 0
            for ns, number in entry["ns"]:
                counts[max(ns.bit_length() - 1, 0)] += number
                total, most = total + ns * number, max(most, ns)
            key = struct.pack("=4I", ("line", "vector", "soft").index(entry["kind"]), entry["number"], entry["cpu"], bank)
            maps["sources"].update(key, struct.pack("=3Q%dQ" % slots, sum(counts), total, most, *counts[:slots]))
    maps = {"bank": Bank(fill)}
    program = Program(world, module, maps, losses(data))
