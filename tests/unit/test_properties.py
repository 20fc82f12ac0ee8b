# SPDX-License-Identifier: GPL-2.0-or-later
"""Properties that hold for all input: formats that are written and read back, numbers, and files
that somebody else wrote.  hypothesis makes the input.
"""

import json
import os
import re
import struct
import sys
import time
from types import SimpleNamespace

import pytest

from crisis import hist, table
from crisis.bpf import object
from crisis.kernel import sysfs
from crisis.symbols.elf import Elf, Functions
from crisis.symbols.machine import X86_64
from crisis.symbols.perfmap import PerfMap
from elf_image import BASE, CODE, PROGRAMS, Image, table_of
from helpers import SLOW

pytest.importorskip("hypothesis", reason="python3-hypothesis is not installed")
from hypothesis import given, settings
from hypothesis import strategies as st

# The same examples in each run, however slow the machine is.
PROPERTY = settings(database=None, deadline=None, derandomize=True, max_examples=150)
FEW = settings(PROPERTY, max_examples=40)


# Names of the system, and how they are shown

# A str as os.fsdecode() makes it: bytes that are not UTF-8 are lone surrogates.
NAMES = st.one_of(
    st.text(st.characters(blacklist_categories=["Cs"])),
    st.binary(max_size=40).map(os.fsdecode),
    st.text("\\xuU0189afDC\n\x9b", max_size=20),
)
ESCAPE = re.compile(r"\\(?:(\\)|x([0-9a-f]{2})|u([0-9a-f]{4})|U([0-9a-f]{8}))")


def unescaped(text):
    """The bytes of the name that `table.escape` has shown.

    \\x80 to \\x9f can be a byte that is not UTF-8 or a C1 control character, which is the only
    ambiguity: both are returned as the character.
    """

    def char(match):
        if match.group(1):
            return "\\"
        return chr(int(match.group(2) or match.group(3) or match.group(4), 16))

    return ESCAPE.sub(char, text)


@PROPERTY
@given(NAMES)
def test_an_escaped_name_is_harmless_and_can_be_read_back(name):
    shown = table.escape(name)
    assert "\n" not in shown and "\x1b" not in shown
    assert shown.encode("utf-8").isascii() or not name.isascii()
    # No control or format character, no surrogate; spaces and letters of all languages stay.
    assert table.escape(shown.replace("\\", "")) == shown.replace("\\", "")
    bytes_as_characters = re.sub("[\udc80-\udcff]", lambda m: chr(ord(m.group()) - 0xDC00), name)
    assert unescaped(shown) == bytes_as_characters


@PROPERTY
@given(NAMES, st.integers(), st.floats(allow_nan=False, allow_infinity=False))
def test_a_json_line_is_one_line_and_is_read_back(name, number, value):
    line = table.json_line({"name": name, "number": number, "value": [value, None]})
    assert line.isascii() and line.count("\n") == 1 and line.endswith("\n")
    found = json.loads(line)
    shown = re.sub("[\udc80-\udcff]", lambda m: f"\\x{ord(m.group()) - 0xDC00:02x}", name)
    assert found == {"name": shown, "number": number, "value": [round(value, 6), None]}


# Lists of CPUs


@PROPERTY
@given(st.sets(st.integers(0, 8191)))
def test_a_list_of_cpus_is_read_back(cpus):
    text = sysfs.cpu_ranges(cpus)
    assert sysfs.cpu_list(text + "\n") == sorted(cpus)
    assert sysfs.cpu_ranges(sysfs.cpu_list(text)) == text
    for first, second in zip(text.split(","), text.split(",")[1:]):  # no ranges side by side
        assert int(first.split("-")[-1]) + 1 < int(second.split("-")[0])


@PROPERTY
@given(st.text("0123456789,- \n", max_size=20) | st.text(max_size=20))
def test_another_list_of_cpus_is_a_value_error(text):
    try:
        cpus = sysfs.cpu_list(text)
    except ValueError:
        return
    assert all(0 <= cpu < 8192 for cpu in cpus)


# Histograms

SHIFTS = st.integers(0, 6)
TIMES = st.lists(st.integers(0, 1 << 40), min_size=1, max_size=60)  # ns


def counted(values, shift):
    """The slots that hold these values, which are in fixed point."""
    slots = [0] * hist.slots(shift, 52)
    for value in values:
        slots[hist.bucket(value, shift)] += 1
    return slots


@PROPERTY
@given(
    st.lists(st.integers(0, (1 << 52) - 1), min_size=1, max_size=60), SHIFTS, st.floats(0.001, 1)
)
def test_a_percentile_lies_in_the_bucket_of_the_nearest_rank(values, shift, q):
    values.sort()
    rank = min(len(values), max(1, -int(-q * len(values) // 1)))
    low, high = hist.bounds(hist.bucket(values[rank - 1], shift), shift)
    found = hist.percentile(counted(values, shift), shift, q)
    assert low <= found * (1 << hist.FRACTION) <= high + 1
    unit = 1 << hist.FRACTION
    assert hist.percentile(counted(values, shift), shift, q, values[-1] / unit) <= values[-1] / unit


@PROPERTY
@given(TIMES, TIMES, SHIFTS)
def test_histograms_add_up(times, others, shift):
    def slots(times):
        return counted([(ns << hist.FRACTION) // 1000 for ns in times], shift)

    def made(times):
        sums = SimpleNamespace(
            count=len(times), total=sum(times), max=max(times), slots=slots(times)
        )
        return hist.Histogram(sums, shift)

    both = made(times)
    both.add(made(others))
    whole = made(times + others)
    assert both.record() == whole.record() and both.text() == whole.text()
    record = whole.record()
    assert sum(bucket["count"] for bucket in record["buckets"]) == record["count"]
    assert record["avg_us"] <= record["max_ns"] / 1000 + 1e-9
    percentiles = [record[key] for key in ("p50_us", "p90_us", "p99_us", "p999_us")]
    assert percentiles == sorted(percentiles) and percentiles[-1] <= record["max_ns"] / 1000
    rows = hist.log2_rows(hist.whole(slots(times + others), shift), shift)
    assert [count for _, _, count in rows] == [
        sum(low <= ns // 1000 <= high for ns in times + others) for low, high, _ in rows
    ]


# Compiled programs

WORDS = st.text("abcdefghijklmnopqrstuvwxyz_/.:%0123456789", min_size=1, max_size=12)
NUMBERS = st.integers(0, (1 << 32) - 1)
INSTRUCTIONS = st.binary(max_size=4).map(lambda unit: unit.ljust(8, b"\n"))
FUNCTIONS = st.lists(
    st.tuples(
        WORDS,
        st.lists(INSTRUCTIONS, max_size=4).map(b"".join),
        st.lists(st.tuples(NUMBERS, NUMBERS), max_size=3),
        st.lists(st.tuples(NUMBERS, WORDS), max_size=3),
    ),
    max_size=3,
    unique_by=lambda function: function[0],
)
FACTS = st.fixed_dictionaries(
    {
        "name": WORDS,
        "unusable": st.none() | st.lists(WORDS, min_size=1).map(" ".join),
        "compiler": WORDS,
        "points": st.lists(st.lists(WORDS, min_size=1, max_size=3), max_size=3),
        "probes": st.lists(WORDS, max_size=3),
        "maps": st.lists(st.tuples(WORDS, *[NUMBERS] * 5, WORDS, WORDS).map(list), max_size=3),
        "layouts": st.dictionaries(WORDS, st.lists(WORDS, min_size=1).map(" ".join), max_size=3),
        "ids": st.dictionaries(WORDS, st.none() | NUMBERS, max_size=3),
        "constants": st.dictionaries(WORDS, st.integers(-(1 << 63), (1 << 64) - 1), max_size=3),
        "counters": st.lists(WORDS, max_size=3),
    }
)


def packed(facts, functions):
    rows = [(name, len(code), maps, params) for name, code, maps, params in functions]
    return object.pack(dict(facts, functions=rows), b"".join(code for _, code, _, _ in functions))


@FEW
@given(FACTS, FUNCTIONS)
def test_an_object_is_read_back(facts, functions):
    found = object.unpack(packed(facts, functions))
    assert {name: getattr(found, name) for name in facts} == facts
    assert found.functions == {name: tuple(rest) for name, *rest in functions}


@FEW
@given(FACTS, FUNCTIONS, st.data())
def test_a_damaged_object_is_a_value_error(facts, functions, data):
    """Any shorter one, any with a changed byte, any with more behind it."""
    whole = packed(facts, functions)
    for length in {0, len(whole) - 1, data.draw(st.integers(0, len(whole) - 1))}:
        with pytest.raises(ValueError):
            object.unpack(whole[:length])
    at, change = data.draw(st.integers(0, len(whole) - 1)), data.draw(st.integers(1, 255))
    with pytest.raises(ValueError):
        object.unpack(whole[:at] + bytes([whole[at] ^ change]) + whole[at + 1 :])
    with pytest.raises(ValueError):
        object.unpack(whole + data.draw(st.binary(min_size=1, max_size=8)))


@PROPERTY
@given(st.binary(max_size=200), st.booleans())
def test_other_bytes_are_no_object(data, magic):
    with pytest.raises(ValueError):
        object.unpack(object.MAGIC * magic + data)


# Files of traced processes

needs_little = pytest.mark.skipif(
    sys.byteorder != "little", reason="the files made here are little-endian"
)
LITTLE_SECONDS = 2 * SLOW  # for a file of a few KB, of CPU time
BOUNDARIES = [0, 1, 0x7F, 0x80, 0xFF, 1 << 16, 1 << 31, (1 << 32) - 1, 1 << 62, (1 << 64) - 1]
WORDS_OF_8 = st.sampled_from(BOUNDARIES) | st.integers(0, (1 << 64) - 1)


def changed(data, changes, length):
    """A copy with words written over it, and cut."""
    data = bytearray(data)
    for at, width, value in changes:
        place = at % len(data)
        raw = (value & (1 << 8 * width) - 1).to_bytes(width, "little")[: len(data) - place]
        data[place : place + len(raw)] = raw
    return bytes(data[:length])


def mutations(data):
    """Copies of a file with up to 6 words changed, most of them in its headers."""
    places = st.integers(0, 255) | st.integers(0, len(data) - 1)
    change = st.tuples(places, st.sampled_from((1, 2, 4, 8)), WORDS_OF_8)
    lengths = st.just(len(data)) | st.integers(0, len(data))
    return st.builds(changed, st.just(data), st.lists(change, max_size=6), lengths)


def read_symbols(data):
    """What naming an address reads of a file; raises nothing but ValueError."""
    try:
        file = Elf(data)
        functions = Functions(file)
        file.defined([b"malloc", b"main"])
    except ValueError:
        return None
    for address in 0, BASE, BASE + CODE, (1 << 64) - 1:
        try:
            found = functions.find(address)
        except ValueError:
            continue
        assert found is None or isinstance(found[0], str) and 0 <= found[1] <= address
    assert file.build_id is None or re.fullmatch("([0-9a-f]{2})+", file.build_id)
    return file


def read_frames(data):
    """What unwinding reads of a file; raises nothing but ValueError."""
    try:
        frames = table_of(data)
    except ValueError:
        return
    for address in 0, BASE, BASE + CODE, BASE + CODE + 0x14, (1 << 64) - 1:
        try:
            rules = frames.rules(address)
        except ValueError:
            continue
        assert rules is None or 0 <= rules.link < X86_64.registers


def within_time(read, data):
    begin = time.thread_time()
    read(data)
    assert time.thread_time() - begin < LITTLE_SECONDS


def whole_image():
    return bytes(Image([(0x10, 0x40, row[1]) for row in PROGRAMS[:1]]).data)


@PROPERTY
@given(st.binary(max_size=400), st.sampled_from([b"", b"\x7fELF", b"\x7fELF\x02\x01\x01"]))
def test_any_bytes_are_a_file(data, magic):
    within_time(read_symbols, magic + data)
    within_time(read_frames, magic + data)


@needs_little
@PROPERTY
@given(mutations(whole_image()))
def test_any_frame_information_is_read_within_bounds(data):
    within_time(read_frames, data)


@pytest.fixture(scope="module")
def program():
    """A real program."""
    with open("/bin/true", "rb") as f:
        return f.read()


@needs_little
@FEW
@given(data=st.data())
def test_any_change_to_a_real_program_is_read_within_bounds(program, data):
    mutated = data.draw(mutations(program))
    within_time(read_symbols, mutated)
    within_time(read_frames, mutated)


@needs_little
@FEW
@given(st.lists(st.tuples(st.integers(0, (1 << 64) - 1), WORDS_OF_8), max_size=40), st.data())
def test_symbols_of_any_value(symbols, data):
    """A whole file with a symbol table of any content, unlike what mutations reach."""
    raw = bytes(24) + b"".join(
        struct.pack("<IBBHQQ", 1, data.draw(st.sampled_from([0x12, 0x10, 2, 0xFF])), 0, 1, *symbol)
        for symbol in symbols
    )
    within_time(read_symbols, file_with_symbols(raw))


def file_with_symbols(symbols):
    """An ELF file with one segment, .symtab and its strings."""
    strings, code = b"\0name\0", 64 + 56
    at = code + 64
    rows = bytes(64)
    rows += struct.pack("<IIQQQQIIQQ", 0, 2, 0, 0, at, len(symbols), 2, 0, 8, 24)
    rows += struct.pack("<IIQQQQIIQQ", 0, 3, 0, 0, at + len(symbols), len(strings), 0, 0, 1, 0)
    end = at + len(symbols) + len(strings)
    head = b"\x7fELF\x02\x01\x01" + bytes(9)
    head += struct.pack("<HHIQQQIHHHHHH", 3, 62, 1, 0, 64, end, 0, 64, 56, 1, 64, 3, 0)
    segment = struct.pack("<IIQQQQQQ", 1, 5, code, BASE, BASE, 64, 64, 4096)
    return head + segment + bytes(64) + symbols + strings + rows


@needs_little
def test_the_file_with_symbols_has_them():
    """The properties above are of what is read at all."""
    data = file_with_symbols(bytes(24) + struct.pack("<IBBHQQ", 1, 0x12, 0, 1, BASE + 8, 8))
    assert Functions(Elf(data)).find(BASE + 9) == ("name", 1)
    assert table_of(whole_image()).rules(BASE + CODE + 0x14).link == X86_64.link


@pytest.fixture(scope="module")
def jit(tmp_path_factory):
    """A process whose map file `write` replaces."""
    process = tmp_path_factory.mktemp("jit") / "proc/7"
    (process / "root/tmp").mkdir(parents=True)
    (process / "status").write_text(f"Uid:\t0\t{os.geteuid()}\t0\t0\nNSpid:\t7\t3\n")
    return process


@FEW
@given(st.binary(max_size=400) | st.text("0123456789abcdefx -\n", max_size=200).map(str.encode))
def test_any_perf_map_is_read(jit, data):
    (jit / "root/tmp/perf-3.map").write_bytes(data)
    found = PerfMap(str(jit))
    try:
        for address in 0, 1, 0x10, 0xAA, (1 << 64) - 1:
            result = found.find(address)
            assert result is None or 0 <= result[1] <= address
    finally:
        found.close()


@FEW
@given(st.dictionaries(st.integers(1, 1 << 20), st.integers(1, 1 << 12), min_size=1, max_size=30))
def test_a_perf_map_names_what_it_describes(jit, ranges):
    rows = [(start * 0x1000, size, f"method {start}") for start, size in ranges.items()]
    text = "".join(f"{start:x} {size:x} {name}\n" for start, size, name in rows)
    (jit / "root/tmp/perf-3.map").write_text(text)
    found = PerfMap(str(jit))
    try:
        for start, size, name in rows:
            assert found.find(start) == (name, 0) and found.find(start + size - 1) == (
                name,
                size - 1,
            )
            beyond = found.find(start + size)
            assert beyond is None or beyond[0] != name
    finally:
        found.close()
