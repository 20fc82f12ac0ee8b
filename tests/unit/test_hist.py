# SPDX-License-Identifier: GPL-2.0-or-later
import random
import shutil
import subprocess
from types import SimpleNamespace

import pytest

from crisis import hist
from crisis.bpf import source


@pytest.mark.parametrize("shift", range(7))
def test_bucket_and_bounds_agree(shift):
    last = 0
    for value in [*range(3000), *(2**k + d for k in range(12, 38) for d in (-1, 0, 1))]:
        index = hist.bucket(value, shift)
        low, high = hist.bounds(index, shift)
        assert low <= value <= high
        assert high - low < max(1, low / 2**shift)
        assert index >= last
        last = index if value < 3000 else last
    assert hist.bucket(2**38 - 1, shift) == hist.slots(shift, 38) - 1


@pytest.mark.parametrize("scale", [1, 0.001, 1000])
def test_percentile_is_within_a_step_of_the_truth(scale):
    rng = random.Random(1)
    values = sorted(rng.lognormvariate(5, 2) * scale for _ in range(20000))
    fixed = [int(value * (1 << hist.FRACTION)) for value in values]
    for shift in 0, 2, 4:
        counts = [0] * hist.slots(shift, 38 + hist.FRACTION)
        for value in fixed:
            counts[hist.bucket(value, shift)] += 1
        for q in 0.5, 0.9, 0.99, 0.999:
            rank = int(-(-q * len(values) // 1)) - 1
            low, high = hist.bounds(hist.bucket(fixed[rank], shift), shift)
            found = hist.percentile(counts, shift, q, values[-1])
            assert low <= found * (1 << hist.FRACTION) <= high + 1
            if shift == 4:
                assert found == pytest.approx(
                    values[rank], rel=1 / 16, abs=2 / (1 << hist.FRACTION)
                )
    assert hist.percentile([0, 0], 0, 0.5) is None
    assert hist.percentile([0] * 15 + [1], 0, 0.99, 17) == 17


def test_whole_units_are_the_same_buckets():
    for shift in 0, 2, 4:
        counts, truth = [0] * hist.slots(shift, 30), [0] * hist.slots(shift, 20)
        for value in [*range(0, 200000, 97), *(2**k + d for k in range(1, 30) for d in (-1, 0, 1))]:
            counts[hist.bucket(value, shift)] += 1
            truth[hist.bucket(value >> hist.FRACTION, shift)] += 1
        found = hist.whole(counts, shift)
        assert found + [0] * (len(truth) - len(found)) == truth
    assert hist.whole([0, 0], 2) == []


def test_log2_rows_and_lines_have_the_classic_shape():
    counts = [0] * hist.slots(4, 38)
    for value, number in ((0, 2), (1, 3), (5, 10), (40, 1)):
        counts[hist.bucket(value, 4)] += number
    rows = hist.log2_rows(counts, 4)
    assert rows == [(0, 1, 5), (2, 3, 0), (4, 7, 10), (8, 15, 0), (16, 31, 0), (32, 63, 1)]
    assert hist.lines(rows, "usecs").splitlines()[:3] == [
        "     usecs               : count     distribution",
        "         0 -> 1          : 5        |********************                    |",
        "         2 -> 3          : 0        |                                        |",
    ]
    assert (
        hist.lines([(0, 1, 0), (2**32, 2**33 - 1, 1)], "usecs").splitlines()[1]
        == "                   0 -> 1                    : 0        |                    |"
    )
    assert hist.lines([], "usecs") == ""


def test_merge_pads():
    assert hist.merge([1], [0, 2], []) == [1, 2]


def test_figures_of_a_histogram():
    """Times of 1, 2, 4 and 1000 us, as the program would have counted them, in microseconds and in
    milliseconds.
    """
    times = [1000, 2000, 4000, 1000000]
    for unit, ns in ("us", 1000), ("ms", 1000000):
        slots = [0] * hist.slots(4, 20 + hist.FRACTION)
        for time in times:
            slots[hist.bucket((time << hist.FRACTION) // ns, 4)] += 1
        sums = SimpleNamespace(count=4, total=sum(times), max=max(times), slots=slots)
        found = hist.Histogram(sums, 4, unit)
        figures, record = found.figures(), found.record()
        assert list(figures) == ["p50", "p90", "p99", "p99.9", "max", "avg"]
        # Within a bucket, which is at least a 1024th of the unit wide.
        assert figures["p50"] == pytest.approx(2000 / ns, rel=1 / 16, abs=2 / 1024)
        assert figures["p90"] == figures["max"] == 1000000 / ns
        assert figures["avg"] == 251750 / ns
        assert (record["count"], record["total_ns"], record["max_ns"], record["steps"]) == (
            4,
            1007000,
            1000000,
            16,
        )
        assert (
            record["avg_" + unit] == figures["avg"] and record["p999_" + unit] == figures["p99.9"]
        )
        assert sum(bucket["count"] for bucket in record["buckets"]) == 4
        assert all(bucket["lo_" + unit] <= bucket["hi_" + unit] for bucket in record["buckets"])
    found.add(found)
    assert (found.count, found.total, found.max) == (8, 2014000, 1000000)
    assert found.filled == [(index, 2 * count) for index, count in enumerate(slots) if count]
    assert found.figures()["avg"] == figures["avg"]


def histogram(*times, shift=0):
    """The Histogram of times in microseconds, as the program would have counted them."""
    slots = [0] * hist.slots(shift, 38 + hist.FRACTION)
    for us in times:
        slots[hist.bucket(int(us * (1 << hist.FRACTION)), shift)] += 1
    ns = [int(us * 1000) for us in times]
    sums = SimpleNamespace(count=len(ns), total=sum(ns), max=max(ns, default=0), slots=slots)
    return hist.Histogram(sums, shift)


def test_text_of_a_histogram():
    lines = histogram(5, 5, 5).text().splitlines()
    assert lines[0] == "     usecs               : count     distribution"
    assert lines[3].split() == ["4", "->", "7", ":", "3", "|" + "*" * 40 + "|"]
    assert lines[-2].startswith("p50 = ") and lines[-2].endswith(", max = 5.0")
    assert lines[-1] == "avg = 5.0 usecs, total: 15.0 usecs, count: 3"


def test_rows_of_the_same_octaves_are_those_of_each_histogram():
    for times in (0.2, 1.5), (0.3, 1.5), (1, 5000), (1, 5000, 5000), (3,), (1.5, 0.2):
        found = histogram(*times, shift=2)
        counts = [0] * 60
        for us in times:
            counts[hist.bucket(int(us), 2)] += 1
        rows = "".join(found.text().splitlines(True)[:-2])
        assert rows == hist.lines(hist.log2_rows(counts, 2), "usecs")


@pytest.mark.parametrize("us", [0.01, 3, 456, 1234567.8, 99999999])
def test_figures_fit_into_80_columns(us):
    """Up to 100 seconds in microseconds, and a million events an hour."""
    for line in histogram(*[us] * 3, us / 3).text().splitlines()[-2:]:
        assert len(line) <= 80


def test_percentiles_of_one_walk_are_those_of_each_share():
    rng = random.Random(3)
    for events in 1, 2, 3, 10, 1000:
        found = histogram(*(rng.lognormvariate(5, 2) for _ in range(events)), shift=4)
        counts = [0] * (found.filled[-1][0] + 1)
        for index, count in found.filled:
            counts[index] = count
        for label, q in hist.QUANTILES.items():
            assert found.figures()[label] == hist.percentile(counts, 4, q, found.max / 1e3)


def test_a_histogram_of_nothing_has_no_figures():
    found = histogram()
    assert set(found.figures().values()) == {None} and found.record()["max_ns"] is None
    assert found.record()["buckets"] == []
    assert found.text() == (
        "p50 = -, p90 = -, p99 = -, p99.9 = -, max = -\navg = - usecs, total: 0 usecs, count: 0\n"
    )


def test_bucket_arithmetic_of_the_kernel_side(tmp_path):
    """LOG_LINEAR, fixed_us and fixed_ms, compiled for this machine, against hist.bucket and true
    division.
    """
    if not shutil.which("cc"):
        pytest.skip("no C compiler")
    values = [v for k in range(63) for v in (2**k - 1, 2**k, 2**k + 1, 2**k * 3 // 2) if v < 2**63]
    times = [
        v
        for k in range(46)
        for v in (2**k, *(2**k * unit + d for unit in (1000, 10**6) for d in (-1, 0, 1)))
        if v < 2**56
    ]
    text = source.program_text("hist.bpf.h")
    program = f"""
#include <stdio.h>
typedef unsigned long long u64;
#undef __always_inline
#define __always_inline inline
{text}
int main(void)
{{
	u64 v[] = {{ {",".join(f"{v}ULL" for v in values)} }};
	u64 t[] = {{ {",".join(f"{v}ULL" for v in times)} }};

	for (u64 s = 0; s < 7; s++)
		for (int i = 0; i < {len(values)}; i++)
			printf("%llu\\n", LOG_LINEAR(v[i], s));
	for (int i = 0; i < {len(times)}; i++)
		printf("%llu %llu\\n", fixed_us(t[i]), fixed_ms(t[i]));
}}
"""
    (tmp_path / "t.c").write_text(program)
    subprocess.check_call(["cc", "-o", str(tmp_path / "t"), str(tmp_path / "t.c")])
    found = list(map(int, subprocess.check_output([str(tmp_path / "t")]).split()))
    buckets = [hist.bucket(v, shift) for shift in range(7) for v in values]
    assert found[: len(buckets)] == buckets
    for ns, us, ms in zip(times, found[len(buckets) :: 2], found[len(buckets) + 1 :: 2]):
        assert us >> hist.FRACTION == ns // 1000 and ms >> hist.FRACTION == ns // 10**6
        assert 0 <= us - (ns << hist.FRACTION) // 1000 <= 1 and ms == (ns << hist.FRACTION) // 10**6
