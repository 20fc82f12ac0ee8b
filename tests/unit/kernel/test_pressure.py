# SPDX-License-Identifier: GPL-2.0-or-later
"""Pressure files, and readings at two instants."""

import os

import pytest

from crisis.kernel import pressure

CPU = (
    b"some avg10=1.50 avg60=2.00 avg300=0.30 total=1000\nfull avg10=0.00 avg60=0.00 "
    b"avg300=0.00 total=7\n"
)
IRQ = b"full avg10=0.00 avg60=0.00 avg300=0.00 total=55\n"


def members(stall):
    return stall.avg10, stall.avg60, stall.avg300, stall.total


def test_parse():
    found = pressure.parse(CPU)
    assert list(found) == ["some", "full"]
    assert members(found["some"]) == (1.5, 2, 0.3, 1000) and found["some"].most == 2
    assert members(found["full"]) == (0, 0, 0, 7)
    assert {kind: members(stall) for kind, stall in pressure.parse(IRQ).items()} == {
        "full": (0, 0, 0, 55)
    }


def test_snapshot_takes_what_there_is(tmp_path):
    directory = tmp_path / "proc/pressure"
    directory.mkdir(parents=True)
    (directory / "cpu").write_bytes(CPU)
    where = pressure.system_directory(str(tmp_path))
    found = pressure.stalls(pressure.read_files(where, pressure.SYSTEM_FILES))
    assert {key: stall.total for key, stall in found.items()} == {
        ("cpu", "some"): 1000,
        ("cpu", "full"): 7,
    }
    (directory / "cpu").unlink()
    with pytest.raises(FileNotFoundError):
        pressure.read_files(where, pressure.SYSTEM_FILES)


def sample(total, now):
    text = f"full avg10=0.00 avg60=0.00 avg300=0.00 total={total}\n".encode()
    return pressure.Sample(text, now, pressure.parse(text))


def test_difference():
    def difference(before, after):
        return pressure.difference({"memory": before}, {"memory": after})

    key = "memory", "full"
    assert difference(sample(1000, 0), sample(251000, 10**9)) == {key: (250000, 0.25)}
    assert difference(sample(1000, 0), sample(999, 10**9)) == {}
    assert difference(sample(9, 5), sample(9, 5)) == {}
    assert pressure.difference({}, {"memory": sample(999, 10**9)}) == {}


@pytest.fixture
def hierarchy(tmp_path, monkeypatch):
    """A directory in place of a v2 hierarchy: make(name), remove(name), and the Reader of it."""
    files = {"cgroup.procs": "", "cpu.pressure": CPU.decode()}

    def count():
        number = sum(1 for path in tmp_path.rglob("*") if path.is_dir())
        (tmp_path / "cgroup.stat").write_text(f"nr_descendants {number}\nnr_dying_descendants 0\n")

    def make(name):
        (tmp_path / name).mkdir()
        for file, text in files.items():
            (tmp_path / name / file).write_text(text)
        count()

    def remove(name):
        for file in files:
            (tmp_path / name / file).unlink()
        (tmp_path / name).rmdir()
        count()

    mounts = [(str(tmp_path), "/", None)]
    monkeypatch.setattr(pressure.cgroup, "mounts", lambda root="/": mounts)
    monkeypatch.setattr(pressure, "_read_system", dict)
    return make, remove


def test_cgroups_that_come_and_go(hierarchy, tmp_path, monkeypatch):
    make, remove = hierarchy
    listed = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: listed.append(path) or scandir(path))

    def names():
        listed.clear()
        found = [name[1] for name in reader.read() if name[1]]
        return {os.path.basename(path): inode for path, inode in found}

    make("a")
    make("a/b")
    reader = pressure.Reader(None, True)
    before = names()
    assert set(before) == {"a", "b"}
    assert names() == before and listed == []  # nothing has changed: nothing is listed
    make("c")
    assert set(names()) == {"a", "b", "c"}
    remove("c")
    make("d")  # as many as before
    assert set(names()) == {"a", "b", "d"}
    remove("d")
    make("keeps-its-inode-from-a-new-d")
    make("d")
    assert set(names()) == {"a", "b", "d", "keeps-its-inode-from-a-new-d"}
    (tmp_path / "a" / "cpu.pressure").unlink()  # as 0 in cgroup.pressure does
    assert set(names()) == {"b", "d", "keeps-its-inode-from-a-new-d"} and names() and listed == []
    (tmp_path / "a" / "cpu.pressure").write_bytes(CPU)
    assert "a" in names()


def test_what_has_not_changed_is_not_parsed_again(hierarchy, monkeypatch):
    make, _ = hierarchy
    make("a")
    make("b")
    reader = pressure.Reader(None, True)
    first, parse, parsed = reader.read(), pressure.parse, []
    monkeypatch.setattr(pressure, "parse", lambda raw: parsed.append(raw) or parse(raw))
    for own, then in zip(reader.read().values(), first.values()):
        assert pressure.stalls(own) == pressure.stalls(then)
    assert parsed == []
