# SPDX-License-Identifier: GPL-2.0-or-later
"""A pass of fincore over files: what becomes a record, in which order, and from several processes.

The pages are made up: a file has as many in memory as its name says, "?" for unknown.
"""

import marshal
import os

import pytest

from crisis.memory import PAGE, survey
from helpers import load


class Pages:
    """A Residency by the names of files."""

    def __init__(self, force_cachestat=False):
        pass

    def measure(self, fd, st, size):
        name = os.path.basename(os.readlink(f"/proc/self/fd/{fd}")).partition("-")[0]
        if name == "gone":
            raise OSError(5, "Input/output error")
        return None if name == "?" else (int(name), 0, 0, 0, 0)


class Printed:
    """A Printer that keeps the records."""

    def __init__(self):
        self.records, self.lines = [], []

    def add(self, record):
        self.records.append(record)

    def raw_line(self, text):
        self.lines.append(text)

    def begin(self, time):
        pass

    def end(self):
        pass

    def rows(self):
        return [(r.name and os.path.basename(r.name), r.pages, r.change) for r in self.records]


@pytest.fixture
def make(monkeypatch, tmp_path):
    """make(*arguments, files=names, share): a Survey of a directory with these files."""
    monkeypatch.setattr(survey, "Residency", Pages)

    def made(*arguments, files=(), share=(0, 1)):
        for name in files:
            (tmp_path / name).write_bytes(b"x" * (4 * PAGE))
        args = load("fincore").get_parser().parse_args([*arguments, str(tmp_path)])
        return survey.Survey(args, Printed(), share), [(str(tmp_path), str(tmp_path))]

    return made


def rows(one, paths):
    one.run(paths)
    one.finish()
    return one.printer.rows()


FILES = ["2-b", "2-a", "10-c", "?-d", "0-e"]


def test_files_are_printed_as_they_are_met_by_name(make):
    one, paths = make(files=FILES)
    names = [name for name, _, _ in rows(one, paths)]
    assert names == sorted(FILES) and one.total.files == 5 and one.total.unknown == 1
    assert one.total.record("TOTAL").pages == 14


def test_sorted_by_value_then_name_and_unknown_last(make):
    one, paths = make("--sort", "RES", files=FILES)
    assert rows(one, paths) == [
        ("10-c", 10, None),
        ("2-a", 2, None),
        ("2-b", 2, None),
        ("0-e", 0, None),
        ("?-d", None, None),
    ]
    one, paths = make("--sort", "FILE")
    assert [name for name, _, _ in rows(one, paths)] == sorted(FILES)
    one, paths = make("--top", "2")
    assert [name for name, _, _ in rows(one, paths)] == ["10-c", "2-a"]
    one, paths = make("--sort", "PERCENT")
    assert [name for name, _, _ in rows(one, paths)] == ["10-c", "2-a", "2-b", "0-e", "?-d"]


def test_a_second_report_has_what_has_changed(make, tmp_path):
    first, paths = make("--watch=1", "--sort", "CHANGE", files=["5-a", "5-b", "?-c"])
    first.now = {}
    assert rows(first, paths) == [("5-a", 5, None), ("5-b", 5, None), ("?-c", None, None)]
    second, _ = make("--watch=1", "--sort", "CHANGE", files=["3-new", "0-nothing"])
    second.before, second.now = {**first.now, f"{tmp_path}/5-a": 9, f"{tmp_path}/5-b": 4}, {}
    assert rows(second, paths) == [
        ("3-new", 3, 3),
        ("5-b", 5, 1),
        ("5-a", 5, -4),
        ("?-c", None, None),
    ]
    assert second.now[f"{tmp_path}/0-nothing"] == 0


def test_what_cannot_be_read_is_noted_and_fails(make, capfd):
    one, paths = make(files=["1-a", "gone"])
    assert rows(one, paths) == [("1-a", 1, None)]
    assert one.failures == 1 and one.finish() == 1
    assert "failed to measure: " in capfd.readouterr().err


def test_the_sum_of_an_argument(make):
    one, paths = make("-s", files=FILES)
    one.run(paths)
    (record,) = one.printer.records
    assert (record.files, record.unknown, record.pages, record.size) == (5, 1, 14, 5 * 4 * PAGE)
    assert one.total.record("TOTAL").files == 5


@pytest.mark.parametrize("arguments", [["--sort", "RES"], ["-s"], ["--top", "3"]])
def test_several_processes_find_what_one_does(make, arguments):
    files = [f"{i}-file" for i in range(40)]
    whole, paths = make(*arguments, files=files)
    shares = [make(*arguments, share=(number, 3))[0] for number in range(3)]
    for one in (whole, *shares):
        one.run(paths)
    first = shares[0]
    for other in shares[1:]:
        first.merge(marshal.loads(marshal.dumps(other.state())))
    assert first.total.state() == whole.total.state()
    if arguments == ["-s"]:
        sums = survey.Sums()
        sums.merge(first.sums[0])
        assert sums.state() == whole.total.state()
        return
    whole.finish()
    first.finish()
    assert first.printer.rows() == whole.printer.rows()
