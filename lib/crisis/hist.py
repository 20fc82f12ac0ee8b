# SPDX-License-Identifier: GPL-2.0-or-later
"""Histograms as plain lists of counts: log2 and log-linear buckets, percentiles, text.

A log-linear histogram with 2**shift steps holds the value v in bucket v while
v < 2**(shift+1), and beyond that splits each octave [2**k, 2**(k+1)) into
2**shift equal buckets, so that a bucket is never wider than 1/2**shift of the
octave's lower end.  With shift 0 each octave is one bucket.  The C side of the
same arithmetic is LOG_LINEAR in progs/hist.bpf.h.

Times are counted in fixed point, in 2**-FRACTION of the unit that is printed
(fixed_us() and fixed_ms() there): buckets then are as fine below one unit
as above it, and percentiles are not truncated to whole units.  Since the
factor is a power of two, each bucket lies within one row of the classic
histogram of whole units.  Counts are whole numbers.
"""

__all__ = ["FRACTION", "bucket", "bounds", "slots", "merge", "percentile", "whole", "rows", "lines", "log2_rows"]

FRACTION = 10

STARS = 40


def slots(shift, bits):
    """Number of buckets that hold every value below 2**bits."""
    return bucket((1 << bits) - 1, shift) + 1


def bucket(value, shift):
    """Index of the bucket of a value of at least 0."""
    octave = max(value.bit_length() - 1 - shift, 0)
    return (octave << shift) + (value >> octave)


def bounds(index, shift):
    """(lowest, highest) value of a bucket, both inside it."""
    octave = max((index >> shift) - 1, 0)
    low = (index - (octave << shift)) << octave
    return low, low + (1 << octave) - 1


def merge(*histograms):
    """The sum of histograms with the same shift, as a new list; shorter ones are padded."""
    total = [0] * max(map(len, histograms), default=0)
    for histogram in histograms:
        for index, count in enumerate(histogram):
            total[index] += count
    return total


def percentile(counts, shift, q, maximum=None):
    """The value, in units, below which the share q (0 < q <= 1) of the events lies, or None for no events.

    counts: a fixed-point histogram.  Nearest rank, placed in its bucket in
    proportion to the rank; never above `maximum`, the largest value seen in
    units, when that is known.
    """
    total = sum(counts)
    if not total:
        return None
    rank = max(1, -int(-q * total // 1))        # ceil
    below = 0
    for index, count in enumerate(counts):
        if below + count >= rank:
            low, high = bounds(index, shift)
            value = (low + (high + 1 - low) * (rank - below) / count) / (1 << FRACTION)
            return value if maximum is None else min(value, maximum)
        below += count
    raise AssertionError("rank beyond the total")


def whole(counts, shift):
    """A fixed-point histogram as one of whole units with the same shift."""
    result = []
    for index, count in enumerate(counts):
        if count:
            slot = bucket(bounds(index, shift)[0] >> FRACTION, shift)
            result.extend([0] * (slot + 1 - len(result)))
            result[slot] += count
    return result


def rows(counts, shift):
    """[(low, high, count)] from the first bucket to the last one that holds an event."""
    last = max((i for i, count in enumerate(counts) if count), default=-1)
    return [bounds(i, shift) + (counts[i],) for i in range(last + 1)]


def log2_rows(counts, shift):
    """The same histogram by octaves, as bcc prints it: 0..1, 2..3, 4..7, ...; [(low, high, count)]."""
    octaves = []
    for index, count in enumerate(counts):
        if count:
            octave = max(bounds(index, shift)[0].bit_length() - 1, 0)
            octaves.extend([0] * (octave + 1 - len(octaves)))
            octaves[octave] += count
    return [((1 << i) if i else 0, (2 << i) - 1, count) for i, count in enumerate(octaves)]


def lines(table, unit):
    """ASCII histogram of (low, high, count) rows, byte for byte the shape of bcc's print_log2_hist.

    unit: the header's name for the values, such as "usecs".
    Empty when there is no row.
    """
    if not table:
        return ""
    wide = table[-1][1] >= 1 << 32
    form, stars = ("%20d -> %-20d", STARS // 2) if wide else ("%10d -> %-10d", STARS)
    result = [("               %-29s" if wide else "     %-19s") % unit + " : count     distribution\n"]
    most = max(count for _, _, count in table) or 1
    for low, high, count in table:
        width = stars * count // most
        result.append((form + " : %-8d |%-*s|\n") % (low, high, count, stars, "*" * width))
    return "".join(result)
