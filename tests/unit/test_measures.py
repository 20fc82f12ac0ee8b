# SPDX-License-Identifier: GPL-2.0-or-later
"""The meaning of every key that a command prints."""

import glob
import json
import os

import pytest

from crisis import measures
from helpers import ROOT


def records():
    """[(command, record, path)] of all JSON lines of tests/expected."""
    found = []
    for path in sorted(glob.glob(os.path.join(ROOT, "tests/expected/*/*.txt"))):
        if path.split(os.sep)[-2] in ("crisis-merge", "crisis-heat"):
            continue
        with open(path, encoding="utf-8") as f:
            for line in f:
                if line.startswith('{"') and line.endswith("}\n"):
                    found.append((path.split(os.sep)[-2], json.loads(line), path))
    return found


FOUND = records()
RECORDS = [(command, record) for command, record, _ in FOUND]


def members(record):
    for key, value in record.items():
        if isinstance(value, dict):
            yield from members(value)
        else:
            yield key, value


def test_a_key_that_no_table_has_is_an_amount():
    """What is not a whole number or not an amount needs a row in a table."""
    assert len(RECORDS) > 400
    unknown = {
        (key, type(value).__name__)
        for _, record in RECORDS
        for key, value in members(record)
        if measures.kind(key) is None and value is not None
    }
    others = {(key, kind) for key, kind in unknown if kind != "int"}
    # Is there another one?  It needs a row in lib/crisis/measures.py.
    assert others == {("buckets", "list"), ("c0_mcyc", "float"), ("c0_acyc", "float")}
    for key, _ in unknown:
        assert not key.endswith(("pid", "tid", "id")), key


@pytest.mark.parametrize(
    "key, kind",
    [
        ("hits", None),
        ("total_ns", None),
        ("cpu_total_ns", None),
        ("max_ns", measures.MAX),
        ("p99_us", measures.PERCENTILE),
        ("pages", None),
        ("pid", measures.LOCAL),
        ("prev_pid", measures.ATTRIBUTE),
        ("comm", measures.NAME),
        ("avg_us", measures.QUOTIENT),
        ("blkio_avg_us", measures.QUOTIENT),
        ("cpu_some_avg10", measures.MEAN),
        ("hit_ratio", measures.QUOTIENT),
        ("util_ratio", measures.MEAN),
        ("rx_bytes", None),
        ("cached_bytes", measures.LEVEL),
        ("mhz", measures.MEAN),
    ],
)
def test_kind(key, kind):
    assert measures.kind(key) == kind


@pytest.mark.parametrize(
    "key, unit",
    [
        ("max_ns", ("max", "seconds", 1e-9)),
        ("blkio_avg_us", ("blkio_avg", "seconds", 1e-6)),
        ("free_kb", ("free", "bytes", 1024.0)),
        ("percent", ("", "ratio", 0.01)),
        ("bytes", ("", "bytes", 1.0)),
        ("cpu_some_avg10", ("cpu_some", "avg10_ratio", 0.01)),
        ("mhz", ("", "hertz", 1e6)),
        ("speed_mbps", ("speed", "bytes_per_second", 125000.0)),
        ("hits", ("hits", "", 1.0)),
    ],
)
def test_unit(key, unit):
    assert measures.unit(key) == unit


def quotients():
    """{key: the quotients of its records, with their parts}."""
    found = {}
    for _, record in RECORDS:
        for key, value in record.items():
            if value is not None and measures.kind(key) == measures.QUOTIENT:
                form = measures.quotient(key)
                parts = [[record.get(part) for part in names] for names in (form.over, form.under)]
                if None not in parts[0] + parts[1]:
                    found.setdefault(key, []).append((form.of(*map(sum, parts)), value))
    return found


@pytest.mark.parametrize("key, pairs", sorted(quotients().items()))
def test_a_quotient_is_what_the_commands_print(key, pairs):
    for computed, printed in pairs:
        assert computed == pytest.approx(printed, rel=2e-6, abs=2e-6)


def test_each_quotient_occurs():
    keys = {key for _, record in RECORDS for key in record if measures.kind(key) == "quotient"}
    assert keys - set(quotients()) <= {"swapin_avg_us", "dtlb_ratio", "itlb_ratio"}


def test_labels():
    record = {
        "record": "stack",
        "pid": 5,
        "comm": "a",
        "stack": [{"name": "f"}, {"name": None, "module": "/m"}, {"name": None, "module": None}],
        "device": "sda",
        "hits": 5,
        "past": False,
        "cgroup": None,
    }
    names = {"record": "stack", "comm": "a", "stack": "f;/m;[unknown]", "device": "sda"}
    assert measures.labels(record) == {**names, "past": "false"}
    assert measures.labels({"pid": 5, "cpu": 1}) == {} and measures.labels({"cpu": 1}) == {
        "cpu": "1"
    }
    assert measures.labels(record, local=True) == {**names, "past": "false", "pid": "5"}
