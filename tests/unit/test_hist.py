# SPDX-License-Identifier: GPL-2.0-or-later
import random

import pytest
from crisis import hist


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


@pytest.mark.parametrize("scale", [1, .001, 1000])
def test_percentile_is_within_a_step_of_the_truth(scale):
    rng = random.Random(1)
    values = sorted(rng.lognormvariate(5, 2) * scale for _ in range(20000))
    fixed = [int(value * (1 << hist.FRACTION)) for value in values]
    for shift in 0, 2, 4:
        counts = [0] * hist.slots(shift, 38 + hist.FRACTION)
        for value in fixed:
            counts[hist.bucket(value, shift)] += 1
        for q in .5, .9, .99, .999:
            rank = int(-(-q * len(values) // 1)) - 1
            low, high = hist.bounds(hist.bucket(fixed[rank], shift), shift)
            found = hist.percentile(counts, shift, q, values[-1])
            assert low <= found * (1 << hist.FRACTION) <= high + 1
            if shift == 4:
                assert found == pytest.approx(values[rank], rel=1 / 16, abs=2 / (1 << hist.FRACTION))
    assert hist.percentile([0, 0], 0, .5) is None
    assert hist.percentile([0] * 15 + [1], 0, .99, 17) == 17


def test_whole_units_are_the_same_buckets():
    for shift in 0, 2, 4:
        counts, truth = [0] * hist.slots(shift, 30), [0] * hist.slots(shift, 20)
        for value in [*range(0, 200000, 97), *(2 ** k + d for k in range(1, 30) for d in (-1, 0, 1))]:
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
        "         2 -> 3          : 0        |                                        |"]
    assert hist.lines([(0, 1, 0), (2**32, 2**33 - 1, 1)], "usecs").splitlines()[1] == \
        "                   0 -> 1                    : 0        |                    |"
    assert hist.lines([], "usecs") == ""


def test_merge_pads():
    assert hist.merge([1], [0, 2], []) == [1, 2]
