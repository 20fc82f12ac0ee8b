# SPDX-License-Identifier: GPL-2.0-or-later
"""The files of --openmetrics: their format, by Prometheus's own parsers where they are installed,
and their values.
"""

import json
import os
import re
import shutil
import stat
import subprocess

import pytest
import test_measures

import world
from crisis import measures
from crisis.errors import Error, Usage
from crisis.metrics import MOST_LABEL, MOST_SERIES, Exporter, Page
from helpers import ROOT, load

try:
    from prometheus_client.parser import text_string_to_metric_families
except ImportError:  # python3-prometheus-client
    text_string_to_metric_families = None

SERIES = re.compile(r'([a-zA-Z_:][\w:]*)(?:\{((?:\w+="(?:[^"\\\n]|\\["\\n])*",?)*)\})? (\S+)')
HEAD = re.compile(r"# (HELP|TYPE) (\w+) (.+)")


def parse(text):
    """{(name, ((label, value), ...)): number}; fails where the text is not in the format."""
    found, types, helped, current, done = {}, {}, set(), None, set()
    assert text.endswith("\n")
    for line in text.splitlines():
        head = HEAD.fullmatch(line)
        if head:
            if head[1] == "TYPE":
                assert head[2] not in types and head[3] in ("gauge", "histogram")
                types[head[2]], current = head[3], head[2]
            else:
                assert head[2] not in helped
                helped.add(head[2])
            continue
        match = SERIES.fullmatch(line)
        assert match, line
        family = match[1]
        if types[current] == "histogram":
            family = re.sub("_(bucket|sum|count)$", "", family)
        assert family == current and family in helped and family not in done
        labels = tuple(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', match[2] or ""))
        assert (match[1], labels) not in found, line
        assert len({name for name, _ in labels}) == len(labels)
        found[match[1], labels] = float(match[3])
    return found


def by_command():
    """{command: its records, with the path of their case as a further member}."""
    found = {}
    for command, record, path in test_measures.FOUND:
        record = dict(record, case=path)
        if command not in ("fincore", "pagecache", "crisis-warm", "crisis-check"):
            found.setdefault(command, []).append(record)
    return found


@pytest.mark.parametrize("command, records", sorted(by_command().items()))
def test_the_format_of_every_command(command, records):
    text = Page(command).render(records)
    found = parse(text)
    assert found
    if text_string_to_metric_families is not None:
        theirs = [s for family in text_string_to_metric_families(text) for s in family.samples]
        assert len(theirs) == len(found)
        for sample in theirs:
            escaped = {key: value.replace("\\", "\\\\") for key, value in sample.labels.items()}
            labels = tuple((key, value.replace('"', '\\"')) for key, value in escaped.items())
            assert found[sample.name, labels] == sample.value
    if shutil.which("promtool"):
        checked = subprocess.run(
            ["promtool", "check", "metrics"], input=text, text=True, capture_output=True
        )
        assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")


@pytest.mark.parametrize("command, records", sorted(by_command().items()))
def test_no_two_records_of_an_interval_make_the_same_series(command, records):
    intervals = {}
    for record in records:
        if record.get("record") not in measures.EVENTS:
            # The cases run one after the other, each on its own.
            intervals.setdefault((record["case"], record.get("time")), []).append(record)
    for own in intervals.values():
        page = Page(command)
        assert page.render(own) and not page.dropped


HISTOGRAM = {
    "time": "2026-03-29T14:00:01.000+0200",
    "record": "histogram",
    "seconds": 1.0,
    "comm": 'a"\\\n\x1b',
    "pid": 7,
    "count": 4,
    "total_ns": 5005000,
    "max_ns": 5000000,
    "p99_us": 5000.0,
    "steps": 16,
    "buckets": [
        {"lo_us": 0, "hi_us": 0, "count": 1},
        {"lo_us": 2, "hi_us": 2, "count": 2},
        {"lo_us": 4864, "hi_us": 5119, "count": 1},
    ],
    "lost": {"unseen": 3},
}
LABELS = (("record", "histogram"), ("comm", r"a\"\\\\\\x0a\\x1b"), ("pid", "7"))


def test_values():
    found = parse(Page("runqlat").render([HISTOGRAM]))
    value = lambda name, *more: found["crisis_runqlat_" + name, (*LABELS, *more)]  # noqa: E731
    assert value("events") == 4
    assert value("max_seconds") == 0.005
    assert value("total_seconds") == pytest.approx(0.005005)
    assert value("p99_seconds") == 0.005
    assert value("interval_seconds") == 1
    assert value("lost", ("key", "unseen")) == 3
    assert not [name for name, _ in found if "time" in name or "step" in name]


def test_a_histogram_counts_from_its_start_on():
    page = Page("runqlat")
    for interval in 1, 2:
        found = parse(page.render([HISTOGRAM]))
        name = "crisis_runqlat_seconds"
        counts = [
            (float(labels[-1][1]), value)
            for (series, labels), value in found.items()
            if series == name + "_bucket"
        ]
        assert counts == sorted(counts)  # cumulative
        bound = dict(counts)
        assert bound[2e-6] == interval and bound[4e-6] == 3 * interval
        assert bound[0.004096] == 3 * interval and bound[0.008192] == 4 * interval
        assert bound[float("inf")] == found[name + "_count", LABELS] == 4 * interval
        assert found[name + "_sum", LABELS] == pytest.approx(0.005005 * interval)
        assert found["crisis_runqlat_events", LABELS] == 4  # a gauge: of the interval
    # The bounds are the same in all files, and a histogram stays when it has no new events.
    assert len(counts) == len(parse(page.render([])).keys()) - 2


def test_nanoseconds_and_milliseconds():
    record = dict(HISTOGRAM, buckets=[{"lo_ns": 512, "hi_ns": 1023, "count": 4}])
    found = parse(Page("irqtime").render([record]))
    bucket = "crisis_irqtime_seconds_bucket"
    assert found[bucket, (*LABELS, ("le", "5.12e-07"))] == 0
    assert found[bucket, (*LABELS, ("le", "1.024e-06"))] == 4
    record = dict(HISTOGRAM, buckets=[{"lo_ms": 4, "hi_ms": 4, "count": 4}])
    found = parse(Page("runqlat").render([record]))
    assert found["crisis_runqlat_seconds_bucket", (*LABELS, ("le", "0.004"))] == 0
    assert found["crisis_runqlat_seconds_bucket", (*LABELS, ("le", "0.008"))] == 4


def test_reserved_suffixes_and_lists():
    sensors = [{"name": "Tctl", "package": 0, "source": "k10temp", "celsius": 62.5}]
    found = parse(
        Page("x-y").render([{"seconds": 1.0, "sum": 5, "a_count": 3, "sensors": sensors}])
    )
    labels = (("name", "Tctl"), ("package", "0"), ("source", "k10temp"))
    assert found == {
        ("crisis_x_y_interval_seconds", ()): 1,
        ("crisis_x_y_sum_value", ()): 5,
        ("crisis_x_y_a_events", ()): 3,
        ("crisis_x_y_sensors_celsius", labels): 62.5,
    }


def test_the_number_of_series_and_the_length_of_a_label_are_bounded():
    page = Page("delays")
    records = [{"pid": n, "comm": "x" * 5000, "a": 1, "b": 2} for n in range(MOST_SERIES)]
    found = parse(page.render(records))
    assert len(found) == MOST_SERIES and page.dropped == MOST_SERIES
    assert all(len(value) <= MOST_LABEL for _, labels in found for _, value in labels)
    page = Page("runqlat")
    found = parse(page.render([dict(HISTOGRAM, pid=n) for n in range(1000)]))
    assert len(found) <= MOST_SERIES and page.dropped


def test_long_labels_that_differ_stay_apart():
    names = ["x" * 5000 + end for end in ("a", "b")]
    assert len(parse(Page("x").render([{"comm": name, "a": 1} for name in names]))) == 2


def test_stacks_of_the_same_functions_stay_apart():
    def stack(offset, address):
        return [{"name": "f", "module": None, "offset": offset, "address": address}]

    rows = [{"record": "stack", "bytes": n, "stack": stack(n, "0x1")} for n in (1, 2)]
    found = parse(Page("memleak").render(rows))
    assert sorted(found.values()) == [1, 2]
    elsewhere = [dict(row, stack=stack(row["bytes"], "0x2")) for row in rows]
    assert parse(Page("memleak").render(elsewhere)) == found


def test_equal_series_are_left_out():
    page = Page("x")
    assert len(parse(page.render([{"comm": "a", "n": 1}, {"comm": "a", "n": 2}]))) == 1
    assert page.dropped == 1


# The file


def exporter(path, notes=None):
    return Exporter(str(path), "runqlat", (notes if notes is not None else []).append)


def test_the_file_is_replaced_and_readable(tmp_path):
    path, mask = tmp_path / "a.prom", os.umask(0o077)
    try:
        one = exporter(path)
        one.take(json.dumps(HISTOGRAM) + "\n")
        assert not path.exists()
        one.write()
    finally:
        os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644 and os.listdir(tmp_path) == ["a.prom"]
    before, text = path.stat().st_ino, path.read_text()
    one.write()  # nothing new
    assert path.stat().st_ino == before
    one.take('{"record":"total","seconds":1.0,"n":1}\ntext\n{"record":"event","n":1}\n')
    one.write()
    assert path.stat().st_ino != before and path.read_text() != text
    assert "crisis_runqlat_n" in path.read_text() and 'record="event"' not in path.read_text()


def test_a_link_is_replaced_not_followed(tmp_path):
    target = tmp_path / "target"
    target.write_text("precious")
    (tmp_path / "a.prom").symlink_to(target)
    with pytest.raises(Usage):
        exporter(tmp_path / "a.prom")
    assert target.read_text() == "precious"


@pytest.mark.parametrize("path", ["/dev/null", "/dev/stdout", "/tmp", "/tmp/"])
def test_what_is_no_file_is_refused(path):
    with pytest.raises(Usage):
        exporter(path)


def test_a_directory_that_is_not_there(tmp_path):
    with pytest.raises(Error):
        exporter(tmp_path / "none" / "a.prom")


def test_a_failed_write_is_an_error_and_leaves_nothing(tmp_path, monkeypatch):
    one = exporter(tmp_path / "a.prom")
    one.take(json.dumps(HISTOGRAM))
    monkeypatch.setattr(os, "fchmod", lambda *_: (_ for _ in ()).throw(OSError(28, "No space")))
    with pytest.raises(Error, match="cannot write .*No space"):
        one.write()
    assert os.listdir(tmp_path) == []


def test_what_is_left_out_is_noted_once(tmp_path):
    notes = []
    one = exporter(tmp_path / "a.prom", notes)
    for _ in range(2):
        one.take('{"comm":"a","n":1}\n{"comm":"a","n":1}')
        one.write()
    assert len(notes) == 1 and "a.prom: 1." in notes[0]


# In a command


@pytest.mark.parametrize("arguments, printed", [(["1", "2"], 0), (["-j", "1", "2"], 3)])
def test_a_command_writes_the_file_after_each_interval(tmp_path, arguments, printed):
    (tmp_path / "work").mkdir()
    seen = []

    def look(made_up, module):
        for seconds in 0.5, 1.5:
            made_up.at(seconds, lambda: seen.append(None) or os.link("a.prom", f"{len(seen)}.prom"))

    result = world.run(
        load("psi"),
        "psi",
        ["--openmetrics", "a.prom", *arguments],
        str(tmp_path),
        ["machine", "pressure"],
        look,
    )
    assert (result.status, result.err) == (0, "") and result.out.count("\n") == printed
    files = sorted(os.listdir(tmp_path / "work"))
    assert files == ["1.prom", "2.prom", "a.prom"]
    first, second, last = (parse((tmp_path / "work" / name).read_text()) for name in files)
    system = (("record", "system"),)
    assert ("crisis_psi_cpu_some_avg10_ratio", (("record", "averages"),)) in first
    assert ("crisis_psi_cpu_some_seconds", system) in second
    with open(os.path.join(ROOT, "tests/expected/psi/json.txt")) as f:
        rows = [json.loads(line) for line in f]
    for found, row in (second, rows[1]), (last, rows[2]):
        share = found["crisis_psi_memory_some_ratio", system]
        assert share == pytest.approx(row["memory_some_ratio"])
        assert found["crisis_psi_memory_some_seconds", system] == row["memory_some_us"] / 1e6
    assert second != last
