# SPDX-License-Identifier: GPL-2.0-or-later
"""How commands load their programs and read them, with maps that are dictionaries."""

import struct
from types import SimpleNamespace

import pytest

from crisis import bpf, cli
from crisis.bpf import cache, loader, map, object, program, task
from crisis.bpf.record import Layouts
from crisis.errors import Error, Unavailable
from crisis.perf import tracefs


class FakeMap(dict):
    """{bytes: bytes} with the part of bpf.Map that Banks uses."""

    def __init__(self, key, value):
        super().__init__()
        layouts = Layouts({"key": "id:I bank:I", "value": "count:Q slots:2Q"})
        self.key_layout, self.value_layout, self.written = layouts[key], layouts[value], []

    def lookup(self, key):
        return self[key]

    def batches(self):
        for item in list(self.items()):
            yield [item]

    def write(self, key, *values):
        self[self.key_layout.pack(key)] = self.value_layout.pack(*values)
        self.written.append(values)

    def clear(self, key):
        self[self.key_layout.pack(key)] = bytes(24)
        self.written.append(key)

    def remove_all(self, keys):
        for at in range(0, len(keys), 8):
            del self[keys[at : at + 8]]


@pytest.fixture
def maps(monkeypatch):
    """The maps of a program that has written bank 0: four entries of an array, two a bank, and a
    hash.
    """
    found = {
        "bank": FakeMap("I", "I"),
        "array": FakeMap("I", "value"),
        "hash": FakeMap("key", "value"),
        "waits": [],
    }
    for number, count in enumerate((5, 0, 7, 9)):
        found["array"][struct.pack("=I", number)] = struct.pack("=QQQ", count, 0, count)
    for number, bank in (1, 0), (2, 1), (3, 0):
        found["hash"][struct.pack("=II", number, bank)] = struct.pack("=QQQ", number, 0, 0)
    monkeypatch.setattr(
        map, "grace_period", lambda: found["waits"].append(list(found["bank"].written))
    )
    return found


def test_banks_are_read_when_no_program_writes_them_and_cleared(maps):
    banks = bpf.Banks(SimpleNamespace(maps=maps))
    banks.switch(False)
    assert maps["waits"] == [[(1,)]]  # after the switch
    assert [value.count for value in banks.array("array", 2)] == [5, 0]
    assert maps["array"].written == [0]  # what is zero need not be set to it
    assert [(key.id, value.count) for key, value in banks.hash("hash")] == [(1, 1), (3, 3)]
    assert list(maps["hash"]) == [struct.pack("=II", 2, 1)]
    banks.switch(False)
    assert [value.slots for value in banks.array("array", 2)] == [(0, 7), (0, 9)]
    assert [key.id for key, _ in banks.hash("hash")] == [2] and not maps["hash"]
    banks.switch(False)
    assert maps["bank"].written == [(1,), (0,), (1,)]
    assert [value.count for value in banks.array("array", 2)] == [0, 0] and banks.hash("hash") == []


def test_the_last_reading_neither_waits_nor_clears(maps):
    banks = bpf.Banks(SimpleNamespace(maps=maps))
    banks.switch(True)
    assert [value.count for value in banks.array("array", 2)] == [5, 0] and len(
        banks.hash("hash")
    ) == 2
    assert maps["waits"] == [] and maps["array"].written == [] and len(maps["hash"]) == 3


def obj(**changed):
    """An Object without maps and functions."""
    meta = {
        "name": "test.one",
        "unusable": None,
        "points": [],
        "probes": [],
        "maps": [],
        "layouts": {},
        "functions": [],
        "ids": {},
        "constants": {"cpu_cgrp_id": 1, "cpuacct_cgrp_id": 2},
        "counters": ["full", "late"],
    }
    return object.Object(dict(meta, **changed), b"")


def test_a_parameter_may_be_the_first_of_some_constants(monkeypatch):
    monkeypatch.setattr(program, "raise_memlock", lambda: None)
    loaded = bpf.Program(
        obj(), {"a": 7, "subsys": ("misc_cgrp_id", "cpuacct_cgrp_id", "cpu_cgrp_id")}
    )
    assert loaded.params == {"a": 7, "subsys": 2}
    with pytest.raises(Unavailable, match="misc_cgrp_id or rdma_cgrp_id"):
        bpf.Program(obj(), {"subsys": ("misc_cgrp_id", "rdma_cgrp_id")})


def test_losses_are_those_since_the_last_call(monkeypatch):
    monkeypatch.setattr(program, "raise_memlock", lambda: None)
    loaded, values = bpf.Program(obj()), {0: 3, 1: 0}
    loaded.maps["counters"] = SimpleNamespace(records=lambda: list(values.items()))
    assert loaded.lost() == {"full": 3, "late": 0}
    values.update({0: 10, 1: 1})
    assert loaded.counters() == {"full": 10, "late": 1}
    assert loaded.lost() == {"full": 7, "late": 1} and loaded.lost() == {"full": 0, "late": 0}


def test_subsystems_of_a_hierarchy():
    assert task.subsys(None) == task.NO_SUBSYS
    assert task.subsys({"cpuacct", "cpu"}) == ("cpu_cgrp_id", "cpuacct_cgrp_id")
    assert task.subsys({"blkio", "name=x"}) == ("io_cgrp_id",)
    with pytest.raises(Unavailable, match="without a controller"):
        task.subsys({"name=systemd"})


def test_places_of_fields(monkeypatch):
    def fields(category, name):
        if name == "gone":
            raise Unavailable(f"this kernel has no tracepoint {category}:{name}")
        return {"order": (8, 4), "flags": (16, 8)}, ""

    monkeypatch.setattr(tracefs, "tracepoint_fields", fields)

    def places(*wanted):
        return bpf.field_places(bpf.Source("test.fields", text="", params=("own",), fields=wanted))

    assert places("vm:here.order", "vm:here.flags?", "vm:here.uid?", "vm:gone?.order") == {
        "here_order": 8 << 8 | 4,
        "here_flags": 16 << 8 | 8,
        "here_uid": 0,
        "gone_order": 0,
    }
    for wrong, why in (
        ("vm:gone.order", "no tracepoint vm:gone"),
        ("vm:here.uid", "vm:here has no field uid"),
        ("vm:here?.uid", "vm:here has no field uid"),
    ):
        with pytest.raises(Unavailable, match=why):
            places(wrong)
    source = bpf.Source("test.fields", text="", params=("own",), fields=["vm:here?.order"])
    assert source.params == ("own", "here_order")


@pytest.fixture
def loaded(monkeypatch):
    """What bpf.load() gives to bpf.first()."""
    found = {}

    def first(sources, build, params, sizes, verbose, without):
        found.update(
            names=[source.name for source in sources],
            params=params,
            sizes=sizes,
            build=build,
            without=without,
        )
        return "program"

    monkeypatch.setattr(loader, "first", first)
    return found


SOURCES = {
    name: bpf.Source("test." + name, text="", params=task.PARAMS + ("own", "other"))
    for name in ("typed", "raw")
}


def test_load_takes_the_filters_from_the_options(loaded, monkeypatch):
    monkeypatch.setattr(task.proc, "check_process", lambda pid: None)
    monkeypatch.setattr(task.proc, "in_initial_pid_namespace", lambda: True)
    args = SimpleNamespace(source=None, no_cache=True, pid=185)
    assert bpf.load(SOURCES, args, {"own": 7}, {"map": {"max_entries": 1}}) == "program"
    assert loaded["names"] == ["test.typed", "test.raw"] and loaded["sizes"] == {
        "map": {"max_entries": 1}
    }
    assert loaded["params"] == {
        "tgid": 185,
        "tid": 0,
        "cgroup": 0,
        "cgroup_level": 0,
        "cgroup_subsys": 255,
        "own": 7,
        "other": 0,
    }
    monkeypatch.setattr(cache, "build", lambda *arguments: arguments)
    assert loaded["build"]("source") == ("source", False, cli.note)


def test_load_takes_the_source_of_the_option(loaded):
    unfiltered = {name: bpf.Source("test." + name, text="", params=("own",)) for name in SOURCES}
    bpf.load(unfiltered, SimpleNamespace(source="raw", no_cache=False), without=("on_exit",))
    assert loaded["without"] == ("on_exit",)
    assert (
        loaded["names"] == ["test.raw"]
        and loaded["params"] == {"own": 0}
        and loaded["sizes"] is None
    )


def test_load_checks_the_filters(loaded):
    for option in "pid", "tid":
        args = SimpleNamespace(source=None, no_cache=False, **{option: 999999999})
        with pytest.raises(Error, match="no such"):
            bpf.load(SOURCES, args)
    assert not loaded
