# SPDX-License-Identifier: GPL-2.0-or-later
"""The merge of many hosts: equal to the sum of its parts, by input whose sums are known."""

import glob
import json
import os
import random

import pytest

from crisis import hist, measures
from crisis.fleet.lines import Lines
from crisis.fleet.merge import MOST_GROUPS, Merge
from helpers import ROOT

GOLDEN = sorted(
    path
    for path in glob.glob(os.path.join(ROOT, "tests/expected/*/*.txt"))
    if open(path, encoding="utf-8").read(2) == '{"'
    and not {"crisis-merge", "crisis-heat"} & set(path.split(os.sep))
)


def take(merge, text, name="-"):
    stream = Lines(name)
    for line in [*stream.feed(text.encode()), *stream.feed(b"")]:
        merge.take(line)
    return merge


def merged(lines, **options):
    return take(Merge(**options), "".join(line + "\n" for line in lines))


def line(host, **record):
    return f"{host}: {json.dumps(record)}"


def results(merge):
    return [merge.record(group) for group in merge.groups()]


def one(merge):
    (record,) = results(merge)
    return record


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: "-".join(path.split(os.sep)[-2:]))
def test_one_host_is_as_it_was(path):
    """A group of one record has that record's values."""
    records = [json.loads(text) for text in open(path, encoding="utf-8")]
    merge = merged(line("web1", **record) for record in records)
    found = merge.groups()
    assert found and sum(group.records for group in found) == len(records)
    assert not merge.hosts["web1"].messages and not merge.hosts["web1"].cut
    singles = [group for group in found if group.records == 1]
    for group in singles:
        result = merge.record(group)
        (record,) = [r for r in records if is_of(r, group)]
        reports = merge.hosts["web1"].intervals[group.kind].number
        for key, value in record.items():
            assert key in result
            if reports == 1:
                check_same(key, result[key], value, record)


def by_name(merge):
    """{what a group is of: its merged record}."""
    return {
        (group.kind, group.unit, *group.names.items()): merge.record(group)
        for group in merge.groups()
    }


def is_of(record, group):
    names = measures.labels(record)
    kind = names.pop("record", "")
    unit = {"hi_" + str(group.unit)} & set(*[b.keys() for b in record.get("buckets") or [{}]][:1])
    return kind == group.kind and names == group.names and (not record.get("buckets") or unit)


def check_same(key, result, value, record):
    kind = measures.kind(key)
    if isinstance(value, dict):
        for member, inner in value.items():
            check_same(member, result[member], inner, record)
    elif kind == measures.PERCENTILE and value is not None:
        # from whole units: within the bucket, or the maximum
        low, high = bucket_around(record, value)
        assert low <= result <= high
    elif kind == measures.QUOTIENT and value is not None:
        parts = measures.quotient(key)
        if all(record.get(part) is not None for part in (*parts.over, *parts.under)):
            assert result == pytest.approx(value, abs=2e-6, rel=2e-6)
    elif isinstance(value, float):
        assert result == pytest.approx(value)
    else:
        assert result == value, key


def bucket_around(record, value):
    unit = next(key for key in record if key.startswith("p50_"))[4:]
    for bucket in record["buckets"]:
        low, high = bucket["lo_" + unit], bucket["hi_" + unit] + 1
        if low <= value <= high:
            return low, high
    raise AssertionError(value)


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: "-".join(path.split(os.sep)[-2:]))
def test_three_equal_hosts(path):
    records = [json.loads(text) for text in open(path, encoding="utf-8")]
    alone = by_name(merged(line("web1", **record) for record in records))
    three = by_name(merged(line(f"web{n}", **record) for n in (1, 2, 3) for record in records))
    assert set(alone) == set(three)
    for name, single in alone.items():
        triple = three[name]
        assert triple["hosts"] == 3 and triple["records"] == 3 * single["records"]
        for key, value in single.items():
            if key not in ("hosts", "records", "worst", "unknown_records", "buckets"):
                check_triple(key, triple[key], value, key == "lost", single)
        for bucket, tripled in zip(single.get("buckets") or (), triple.get("buckets") or ()):
            assert tripled == dict(bucket, count=3 * bucket["count"])


SAME = {
    measures.NAME,
    measures.LOCAL,
    measures.ATTRIBUTE,
    measures.MAX,
    measures.MIN,
    measures.MEAN,
    measures.QUOTIENT,
}


def check_triple(key, result, value, lost, record):
    kind = measures.kind(key)
    if record.get("stat") in ("min", "max"):
        kind = measures.MAX
    if isinstance(value, dict):
        for member, inner in value.items():
            check_triple(member, result[member], inner, key == "lost", record)
    elif kind == measures.PERCENTILE:
        # three times as many events have other ranks, in the same bucket or the next
        assert (result is None) == (value is None)
    elif value is None or isinstance(value, (str, list, bool)) or kind in SAME and not lost:
        if isinstance(value, float):
            assert result == pytest.approx(value)
        elif key != "time":
            assert result == value
    else:
        # the mean of several reports of a level is rounded, before it is times three or after
        assert result == pytest.approx(3 * value, abs=2 if isinstance(value, int) else None)


@pytest.mark.parametrize("number", [50, 500])
def test_histograms_of_many_hosts(number):
    """Each has its own buckets, sums and maximum; the whole is the sum of the parts."""
    chance = random.Random(number)
    waits = {
        f"web{n}": [int(chance.lognormvariate(3, 2)) for _ in range(200)] for n in range(number)
    }
    lines = []
    for host, values in waits.items():
        counts = {}
        for value in values:
            index = hist.bucket(value, 4)
            counts[index] = counts.get(index, 0) + 1
        rows = [(*hist.bounds(index, 4), count) for index, count in sorted(counts.items())]
        record = {"time": "x", "record": "histogram", "seconds": 1.0, "count": len(values)}
        record.update(total_ns=sum(values) * 1000, max_ns=max(values) * 1000, avg_us=0.0)
        record.update(p50_us=0.0, p99_us=float(max(values)), p999_us=0.0, steps=16)
        record.update(buckets=hist.buckets(rows, "us"), lost={"unseen": 1})
        lines.append(line(host, **record))
    chance.shuffle(lines)
    result = one(merged(lines))
    every = sorted(value for values in waits.values() for value in values)
    assert result["count"] == len(every) == 200 * number
    assert result["total_ns"] == 1000 * sum(every)
    assert result["max_ns"] == 1000 * every[-1]
    assert result["avg_us"] == pytest.approx(sum(every) / len(every))
    assert result["lost"] == {"unseen": number}
    assert (result["hosts"], result["records"], result["seconds"]) == (number, number, 1.0)
    assert sum(bucket["count"] for bucket in result["buckets"]) == len(every)
    for bucket in result["buckets"]:
        inside = [value for value in every if bucket["lo_us"] <= value <= bucket["hi_us"]]
        assert bucket["count"] == len(inside)
    for key, share in ("p50_us", 0.5), ("p99_us", 0.99), ("p999_us", 0.999):
        exact = every[-int(-share * len(every) // 1) - 1]
        low, high = hist.bounds(hist.bucket(exact, 4), 4)
        assert low <= result[key] <= high + 1
    most = sorted(waits, key=lambda host: (-max(waits[host]), host))[:5]
    assert [found["host"] for found in result["worst"]] == most


@pytest.mark.parametrize("number", [50, 500])
def test_tables_of_many_hosts(number):
    chance = random.Random(number)
    lines, hits, misses, cached = [], 0, 0, 0
    for n in range(number):
        level = chance.randrange(10**9)
        for second in range(3):
            h, m = chance.randrange(1000), chance.randrange(1, 1000)
            lines.append(
                line(
                    f"web{n}",
                    time=str(second),
                    record="total",
                    seconds=1.0,
                    hits=h,
                    misses=m,
                    hit_ratio=round(h / (h + m), 6),
                    cached_bytes=level + second,
                    lost={"names_lost": 2},
                )
            )
            hits, misses = hits + h, misses + m
        cached += level + 1
    result = one(merged(lines))
    assert (result["hits"], result["misses"]) == (hits, misses)
    assert result["hit_ratio"] == pytest.approx(hits / (hits + misses))
    assert result["cached_bytes"] == pytest.approx(cached)  # the mean of three reports of each
    assert result["seconds"] == 3.0 and result["records"] == 3 * number
    assert result["lost"] == {"names_lost": 6 * number}


def test_a_level_of_a_host_that_stopped_early():
    lines = [line("a", time=str(n), record="total", seconds=1.0, bytes=100) for n in range(10)]
    lines.append(line("b", time="0", record="total", seconds=1.0, bytes=300))
    assert one(merged(lines))["bytes"] == 400


def test_shares_of_time_are_weighted_by_it():
    lines = [
        line("a", record="cpu", cpu=0, seconds=1.0, util_ratio=1.0),
        line("b", record="cpu", cpu=0, seconds=3.0, util_ratio=0.0),
        line("c", record="cpu", cpu=0, seconds=1.0, util_ratio=None),
    ]
    assert one(merged(lines))["util_ratio"] == 0.25


def test_a_quotient_is_of_records_with_all_its_parts():
    lines = [
        line("a", record="interval", seconds=1.0, llcref=100, llcmiss=50, llc_ratio=0.5),
        line("b", record="interval", seconds=1.0, llcref=None, llcmiss=50, llc_ratio=None),
    ]
    result = one(merged(lines))
    assert result["llc_ratio"] == 0.5 and result["llcmiss"] == 100
    assert result["unknown_records"] == {"llcref": 1}


def test_what_differs_is_null():
    lines = [
        line("a", record="process", pid=5, comm="db", seconds=1.0, count=1, kernel_thread=False),
        line("b", record="process", pid=6, comm="db", seconds=1.0, count=2, kernel_thread=False),
        line("b", record="process", pid=7, comm="web", seconds=1.0, count=4, kernel_thread=False),
    ]
    found = {record["comm"]: record for record in results(merged(lines))}
    assert (found["db"]["pid"], found["db"]["count"], found["db"]["hosts"]) == (None, 3, 2)
    assert (found["web"]["pid"], found["web"]["count"]) == (7, 4)


def test_by():
    lines = [
        line(host, record="process", pid=5, comm=comm, seconds=1.0, count=1)
        for host in ("a", "b")
        for comm in ("db", "web")
    ]
    assert one(merged(lines, by=["nothing"]))["count"] == 4
    found = results(merged(lines, by=["host"]))
    assert [(record["host"], record["count"]) for record in found] == [("a", 2), ("b", 2)]


def test_lost_counts_once_in_each_report():
    lines = [
        line(
            "a",
            time=time,
            record="histogram",
            seconds=1.0,
            comm="x",
            pid=pid,
            count=1,
            lost={"n": lost},
        )
        for time, lost in (("1", 3), ("2", 4))
        for pid in (1, 2)
    ]
    assert one(merged(lines))["lost"] == {"n": 7}
    events = [
        line("a", time=str(n), record="wait", comm="x", wait_ns=1, lost={"n": n}) for n in (1, 2)
    ]
    assert one(merged(events))["lost"] == {"n": 2}


def test_histograms_with_different_steps_and_units():
    def histogram(host, unit, steps, value, count):
        low, high = hist.bounds(hist.bucket(value, steps.bit_length() - 1), steps.bit_length() - 1)
        bucket = {f"lo_{unit}": low, f"hi_{unit}": high, "count": count}
        return line(host, record="histogram", seconds=1.0, steps=steps, buckets=[bucket])

    lines = [histogram("a", "us", 16, 100, 1), histogram("b", "us", 4, 101, 2)]
    result = one(merged(lines))
    assert result["steps"] == 4
    assert result["buckets"] == [{"lo_us": 96, "hi_us": 111, "count": 3}]
    found = results(merged([*lines, histogram("c", "ms", 4, 100, 4)]))
    assert [sum(bucket["count"] for bucket in record["buckets"]) for record in found] == [3, 4]


def states(merge, stopped=False):
    return [(found.name, found.state) for found in merge.listed(stopped)]


def test_hosts_that_are_listed():
    report = {"record": "total", "seconds": 1.0, "hits": 1}
    lines = [line("ok", time=str(n), **report) for n in range(3)]
    lines += [line("short", time=str(n), **report) for n in range(2)]
    lines += [line("noisy", time=str(n), **report) for n in range(3)] + ["noisy: Welcome"]
    lines += [line("cut", time=str(n), **report) for n in range(3)] + ['cut: {"time":"4","rec']
    lines += ["refused: ssh: connect: refused", "clush: refused: exited with exit code 255"]
    merge = merged(lines, expected=["ok", "gone2", "gone10"])
    assert states(merge) == [
        ("cut", "truncated"),
        ("gone2", "missing"),
        ("gone10", "missing"),
        ("noisy", "rubbish"),
        ("refused", "failed"),
        ("short", "incomplete"),
    ]
    assert ("short", "incomplete") not in states(merge, stopped=True)
    reasons = {found.name: found.why for found in merge.listed(False)}
    assert reasons["refused"] == "exited with exit code 255: ssh: connect: refused"
    assert reasons["short"] == "2 of 3 reports"
    assert one(merge)["hits"] == 11  # what they did print counts


@pytest.mark.parametrize(
    "buckets",
    [
        5,
        [5],
        [{}],
        [{"lo_us": 1, "hi_us": 1}],
        [{"lo_us": 5, "hi_us": 1, "count": 1}],
        [{"lo_us": -1, "hi_us": 1, "count": 1}],
        [{"lo_us": 1, "hi_us": 1, "count": 1.5}],
        [{"lo_us": 1, "hi_us": 1, "count": True}],
        [{"lo_us": 1, "hi_us": 1 << 63, "count": 1}],
        [{"lo_x": 1, "hi_x": 1, "count": 1}],
        [{"lo_us": 1, "hi_us": 1, "count": 1}, 7],
        [{"lo_us": 1, "hi_us": 1, "count": 1}, {"lo_ms": 1, "hi_ms": 1, "count": 1}],
    ],
)
def test_wrong_buckets_are_rubbish(buckets):
    merge = merged([line("a", record="histogram", buckets=buckets)])
    assert states(merge) == [("a", "rubbish")] and not merge.groups()


def test_values_of_a_wrong_type_are_ignored():
    lines = [
        line("a", record="total", seconds=1.0, max_ns=5, hits=5, lost={"n": 1}),
        line("b", record="total", seconds=1.0, max_ns="many", lost=7),
        line("c", record="total", seconds="long", max_ns=[1], hits=[1], lost={"n": {"n": 1}}),
        line("d", record="total", seconds=1.0, max_ns=True, hits=True, lost={"n": 2}),
    ]
    result = one(merged(lines))
    assert (result["max_ns"], result["hits"], result["hosts"]) == (5, 5, 4)
    json.dumps(result, allow_nan=False)


def test_large_records_are_bounded(monkeypatch):
    monkeypatch.setattr("crisis.fleet.merge.MOST_KEPT", 1 << 20)
    large = {f"k{n}": "x" * 1000 for n in range(500)}
    lines = [line("a", comm=f"c{n}", count=1, **large) for n in range(10)]
    merge = merged([*lines, line("a", comm="c0", count=1, **large)])
    assert len(merge.groups()) == 3 and merge.left_out == 7
    assert [group.members()["count"] for group in merge.groups()] == [2, 1, 1]
    merge = merged([*lines, line("a", comm="c0", new=1, **large)])
    assert "new" not in merge.groups()[0].members()


def test_groups_are_bounded():
    lines = [line("a", record="process", comm=f"c{n}", count=1) for n in range(MOST_GROUPS + 5)]
    merge = merged(lines)
    assert len(merge.groups()) == MOST_GROUPS and merge.left_out == 5
