# SPDX-License-Identifier: GPL-2.0-or-later
"""wss on made-up /proc and /sys trees: the parsers, the curve, idle page tracking and DAMON."""

import argparse
import array
import os
import struct

import pytest
from crisis import damon, idle, plot, refs, union, workingset, wssreport
from crisis.errors import Error, NotPermitted, Unavailable
from helpers import run

PAGE = refs.PAGE
SMAPS = b"""55d0c0000000-55d0c0002000 r-xp 00001000 fe:00 1234                       /usr/bin/a b (deleted)
Size:                  8 kB
KernelPageSize:        4 kB
MMUPageSize:           4 kB
Rss:                   8 kB
Pss:                   2 kB
Pss_Dirty:             0 kB
Shared_Clean:          4 kB
Shared_Dirty:          4 kB
Private_Clean:         0 kB
Referenced:            4 kB
Anonymous:             0 kB
AnonHugePages:         0 kB
VmFlags: rd ex mr mw me sd
7f0000000000-7f0000400000 rw-p 00000000 00:00 0 
Size:               4096 kB
Rss:                2052 kB
Pss:                2052 kB
Shared_Clean:          0 kB
Shared_Dirty:          0 kB
Referenced:         2048 kB
AnonHugePages:      2048 kB
Private_Hugetlb:       0 kB
KernelPageSize:        4 kB
VmFlags: rd wr mr mw me ac sd
7f0000400000-7f0000600000 rw-s 00000000 00:0f 99                         /anon_hugepage\\012x (deleted)
Size:               2048 kB
Rss:                   0 kB
Pss:                   0 kB
Shared_Clean:          0 kB
Shared_Dirty:          0 kB
Referenced:            0 kB
AnonHugePages:         0 kB
Private_Hugetlb:    2048 kB
VmFlags: rd wr sh mr mw me ms de ht sd
"""


def test_mappings_of_new_and_old_kernels():
    assert refs.mappings(SMAPS) == [
        (0x55d0c0000000, 0x55d0c0002000, "r-xp", b"/usr/bin/a b (deleted)", 8192, 2048, 4096, 8192,
         b"fe:00 1234"),
        (0x7f0000000000, 0x7f0000400000, "rw-p", b"", 2052 << 10, 2052 << 10, 2048 << 10, 0, b"00:00 0"),
        (0x7f0000400000, 0x7f0000600000, "rw-s", b"/anon_hugepage\\012x (deleted)", 0, 0, 0, 0,
         b"00:0f 99")]
    found = refs.sum_mappings(SMAPS)
    assert found["Rss"] == 2060 << 10 and found["Referenced"] == 2052 << 10
    assert found["AnonHugePages"] == found["Private_Hugetlb"] == 2048 << 10 and found["FilePmdMapped"] == 0


def fake_process(root, pid=77, comm=b"a) (b", parent=1, flags=0, **files):
    directory = root / "proc" / str(pid)
    directory.mkdir(parents=True)
    fields = ["S", parent, pid, pid, 0, -1, flags] + [0] * 12 + [4200] + [0] * 20
    (directory / "stat").write_bytes(b"%d (%s) " % (pid, comm) + " ".join(map(str, fields)).encode() + b"\n")
    for name, content in files.items():
        (directory / name).write_bytes(content)
    return directory


def test_process_and_rollup(tmp_path):
    fake_process(tmp_path, smaps_rollup=b"1000-2000 ---p 00000000 00:00 0 [rollup]\nRss: 12 kB\nPss: 10 kB\n"
                                        b"Referenced: 8 kB\nAnonHugePages: 0 kB\n", clear_refs=b"")
    process = refs.Process(77, str(tmp_path))
    assert (process.comm, process.parent, process.kernel) == ("a) (b", 1, False)
    assert process.born == 4200 / os.sysconf("SC_CLK_TCK")
    found, begin, end = process.rollup()
    assert (found["Rss"], found["Pss"], found["Referenced"]) == (12288, 10240, 8192) and begin <= end
    process.clear(True)
    assert (tmp_path / "proc/77/clear_refs").read_bytes() == b"14"
    (tmp_path / "proc/77/clear_refs").write_bytes(b"")
    process.clear(False)
    assert (tmp_path / "proc/77/clear_refs").read_bytes() == b"1"


def test_without_rollup_smaps_serves_and_without_both_one_line_says_so(tmp_path):
    directory = fake_process(tmp_path, smaps=SMAPS)
    process = refs.Process(77, str(tmp_path))
    assert process.rollup()[0]["Rss"] == 2060 << 10
    (directory / "smaps").unlink()
    for act in process.rollup, lambda: process.clear(False):
        with pytest.raises(Unavailable, match="CONFIG_PROC_PAGE_MONITOR"):
            act()
    (directory / "smaps_rollup").write_bytes(b"")
    with pytest.raises(ProcessLookupError):         # a zombie's is empty
        process.rollup()
    (directory / "stat").unlink()
    with pytest.raises(ProcessLookupError):
        process.smaps()
    with pytest.raises(Error, match="no such process: 78"):
        refs.Process(78, str(tmp_path))


def test_frames(tmp_path):
    entries = array.array("Q", [0] * 40)
    entries[16], entries[17], entries[18], entries[30] = 1 << 63 | 7, 1 << 63 | 1 << 56 | 8, 1 << 62 | 9, 1 << 63 | 11
    fake_process(tmp_path, pagemap=entries.tobytes())
    process = refs.Process(77, str(tmp_path))
    assert process.frames(16 * PAGE, 31 * PAGE) == ([7, 11], 1) and process.frames(0, 16 * PAGE) == ([], 0)
    entries[16], entries[30] = 1 << 63, 1 << 63
    (tmp_path / "proc/77/pagemap").write_bytes(entries.tobytes())
    with pytest.raises(NotPermitted, match="CAP_SYS_ADMIN"):
        process.frames(16 * PAGE, 31 * PAGE)


def mapping(process, start, pages, ref, shared, file=b"00:00 0", name=b""):
    """A union.Mapping of that many pages, so many of them referenced and shared."""
    return union.Mapping(process, (start, start + pages * PAGE, "rw-p", name, pages * PAGE, 0, ref * PAGE,
                                   shared * PAGE, file))


def bounds(mappings, frames=None):
    """(at least, at most) in pages."""
    low, middle, high = union.touched(mappings, frames)
    assert low <= middle <= high and middle == round((low * high) ** .5)
    return low // PAGE, high // PAGE


def test_what_several_touched_without_frame_numbers():
    # Of 30 pages 20 are shared: 5 of 25 must be of its own, at least.
    assert bounds([mapping(1, 0, 30, 25, 20), mapping(2, 0, 30, 25, 20)]) == (5 + 5 + 20, 50)
    # All shared; one may have touched what the other has, or other pages.
    assert bounds([mapping(1, 0, 60, 10, 60), mapping(2, 0, 60, 12, 60)]) == (12, 22)
    # Nothing shared: exact.  An untouched mapping adds nothing.
    assert bounds([mapping(1, 0, 30, 9, 0), mapping(2, 0, 30, 8, 0), mapping(3, 0, 30, 0, 30)]) == (17, 17)
    # Two anonymous mappings of a process are of different pages, two of a file need not be.
    assert bounds([mapping(1, 0, 9, 4, 9), mapping(1, 1 << 20, 9, 3, 9)]) == (7, 7)
    assert bounds([mapping(1, 0, 9, 4, 9, b"fe:00 5"), mapping(1, 1 << 20, 9, 3, 9, b"fe:00 5")]) == (4, 7)
    # Different files have different pages; a library that only strangers share is one's own.
    assert bounds([mapping(1, 0, 9, 4, 9, b"fe:00 5"), mapping(2, 0, 9, 3, 9, b"fe:00 6")]) == (7, 7)
    # A child's stack has grown downwards: the same pages at another start.
    assert bounds([mapping(1, 50, 9, 4, 9, name=b"[stack]"), mapping(2, 40, 9, 4, 9, name=b"[stack]")]) == (4, 8)
    assert union.touched([]) == (0, 0, 0)


def test_what_several_touched_by_frame_numbers():
    def frames(mapping):
        return table[mapping.process, mapping.start]
    table = {(1, 0): (list(range(60)), 0), (2, 0): (list(range(60)), 0)}
    # As a whole, so once; there are 60 of them.
    assert bounds([mapping(1, 0, 60, 60, 60), mapping(2, 0, 60, 60, 60)], frames) == (60, 60)
    assert bounds([mapping(1, 0, 60, 40, 60), mapping(2, 0, 60, 40, 60)], frames) == (40, 60)
    # Pages that only strangers share (frames 100 and up, 200 and up) are different ones.
    table = {(1, 0): (list(range(100, 150)), 10), (2, 0): (list(range(200, 250)), 10)}
    assert bounds([mapping(1, 0, 60, 40, 50), mapping(2, 0, 60, 40, 50)], frames) == (80, 80)
    # A child has moved its memory: 30 pages are still the parent's.
    table = {(1, 0): (list(range(30)), 0), (2, 1 << 20): (list(range(30)), 0)}
    assert bounds([mapping(1, 0, 30, 30, 30), mapping(2, 1 << 20, 30, 30, 30)], frames) == (30, 60)
    # Numbers that cannot be read: as without.
    assert bounds([mapping(1, 0, 60, 40, 60), mapping(2, 0, 60, 40, 60)], lambda mapping: None) == (40, 80)


def test_frame_numbers_are_read_within_limits(monkeypatch):
    read = []
    pair = [mapping(pid, 0, 60, 40, 60) for pid in (1, 2)]
    monkeypatch.setattr(union, "LIMIT", 119)
    union.touched(pair, read.append)
    monkeypatch.setattr(union, "LIMIT", 120)
    monkeypatch.setattr(union, "SPAN", 119 * PAGE)
    union.touched(pair, read.append)
    assert read == []
    monkeypatch.setattr(union, "SPAN", 120 * PAGE)
    union.touched(pair, read.append)
    assert read == pair


def process_row(pid, ref, maps=(), touched=None):
    return {"pid": pid, "comm": "x", "mark": (0, 10), "read": (20, 30), "newborn": False, "rss": 9 * MB, "pss": 8 * MB,
            "ref": ref, "huge": 0, "hugetlb": 0, "maps": list(maps), "touched": touched}


MB = 1 << 20


def test_total_by_idle_page_tracking_is_exact():
    rows = [process_row(1, 3 * PAGE, touched={5, 6, 7}), process_row(2, 2 * PAGE, touched={7, 8})]
    row = workingset.total(rows, {})
    assert row["ref"] == row["ref_min"] == row["ref_max"] == 4 * PAGE and row["unweighted"] == 5 * PAGE
    assert (row["rss"], row["pss"]) == (18 * MB, 16 * MB)


@pytest.mark.parametrize("low, high, shown", [
    (24 * MB, 48 * MB, "total (24.00-48.00)"), (24 * MB, 24 * MB, "total"),
    (999 * MB, 999999 * MB, "total (999.00-999999)")])
def test_total_shows_its_range(low, high, shown):
    args = argparse.Namespace(json=False, timestamp=False, moretimes=False, map=False)
    row = dict(process_row(None, low), comm="total", ref_min=low, ref_max=high)
    line = wssreport.line(args, row, 0, True)
    assert line.endswith("       - " + shown) and len(line) <= 80


def test_descendants(tmp_path):
    for pid, parent in (1, 0), (10, 1), (11, 10), (12, 11), (20, 1), (21, 20):
        fake_process(tmp_path, pid, parent=parent)
    assert refs.descendants([10], str(tmp_path)) == [10, 11, 12]
    assert refs.descendants([11, 20], str(tmp_path)) == [11, 12, 20, 21]


def test_reclaim_is_counted_once(tmp_path):
    (tmp_path / "proc").mkdir()
    assert refs.reclaim_scanned(str(tmp_path)) is None
    (tmp_path / "proc/vmstat").write_text("pgscan_kswapd 100\npgscan_direct 20\npgscan_direct_throttle 5\n"
                                          "pgscan_anon 80\npgscan_file 43\npgscan_khugepaged 3\npgsteal_kswapd 9\n")
    assert refs.reclaim_scanned(str(tmp_path)) == 123


class _Pagemap:
    """/proc/self/pagemap that has one entry at every address."""

    def __init__(self, monkeypatch, tmp_path, entry):
        (tmp_path / "proc/self").mkdir(parents=True, exist_ok=True)
        (tmp_path / "proc/self/pagemap").write_bytes(b"")
        monkeypatch.setattr(os, "pread", lambda fd, count, at: struct.pack("=Q", entry))


@pytest.mark.parametrize("entry, free", [(1 << 63, True), (1 << 63 | 1 << 55, False), (0, False)])
def test_soft_dirty_bits_forbid_the_flush(monkeypatch, tmp_path, entry, free):
    assert not refs.flush_is_free(str(tmp_path))
    _Pagemap(monkeypatch, tmp_path, entry)
    assert refs.flush_is_free(str(tmp_path)) is free


def test_resident_runs(tmp_path):
    entries = array.array("Q", [0] * 64)
    for page in 16, 17, 20, 32, 33:
        entries[page] = 1 << 63 | page
    entries[21] = 1 << 62       # swapped
    fake_process(tmp_path, maps=b"10000-18000 rw-p 0 0:0 0\n18000-22000 r--p 0 0:0 0 /x\n", pagemap=entries.tobytes())
    if PAGE == 4096:
        assert refs.Process(77, str(tmp_path)).resident_runs() == [
            (0x10000, 0x12000), (0x14000, 0x15000), (0x20000, 0x22000)]


LRU, HEAD, TAIL, HUGE, NOPAGE, THP, ZERO = (1 << bit for bit in (5, 15, 16, 17, 20, 22, 24))


class Machine:
    """1024 frames: 1-3 small, 200-203 one folio, 300 hugetlb, 301 zero page, 302 on no LRU, 512-1023 a huge page."""

    def __init__(self, root):
        self.root = root
        flags = array.array("Q", [NOPAGE] * 1024)
        for frame in 1, 2, 3:
            flags[frame] = LRU
        for first, count in (200, 4), (512, 512):
            flags[first] = LRU | HEAD
            for frame in range(first + 1, first + count):
                flags[frame] = TAIL
        flags[300], flags[301], flags[302] = HUGE | HEAD, ZERO, 0
        (root / "proc").mkdir(exist_ok=True)
        (root / "proc/kpageflags").write_bytes(flags.tobytes())
        self.bitmap = root / "sys/kernel/mm/page_idle/bitmap"
        self.bitmap.parent.mkdir(parents=True)
        self.bitmap.write_bytes(bytes(1024 // 8))

    def idle(self):
        words = array.array("Q", self.bitmap.read_bytes())
        return {index * 64 + bit for index, word in enumerate(words) for bit in range(64) if word >> bit & 1}

    def touch(self, *frames):
        words = array.array("Q", self.bitmap.read_bytes())
        for frame in frames:
            words[frame // 64] &= ~(1 << frame % 64)
        self.bitmap.write_bytes(words.tobytes())


def test_idle_pages_small_compound_and_untracked(tmp_path):
    machine = Machine(tmp_path)
    pages = idle.IdlePages(str(tmp_path))
    frames = [1, 3, 201, 202, 300, 301, 302] + list(range(600, 700))
    pages.mark(frames)
    assert machine.idle() == {1, 3, 200, 512}           # heads only, and nobody else's
    machine.touch(3, 512)
    found, begin, end = pages.touched(frames + [2])
    assert begin <= end
    assert {f for f, state in found.items() if state} == {2, 3, *range(600, 700)}    # 2 came after the marking
    assert [f for f, state in found.items() if state is None] == [300, 301, 302]
    assert not found[1] and not found[201]
    machine.touch(200)
    assert pages.touched([201])[0] == {201: True}


def test_idle_pages_of_a_process(tmp_path):
    Machine(tmp_path)
    entries = array.array("Q", [0] * 64)
    entries[16], entries[17], entries[18], entries[40] = 1 << 63 | 1, 1 << 63 | 3, 1 << 62 | 9, 1 << 63 | 200
    fake_process(tmp_path, pagemap=entries.tobytes(),
                 maps=b"10000-14000 rw-p 00000000 00:00 0    [heap]\n28000-29000 r--s 00000000 00:00 5    /a b\n"
                      b"ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0    [vsyscall]\n")
    if PAGE != 4096:
        pytest.skip("the fixture is for pages of 4 KiB")
    pages = idle.IdlePages(str(tmp_path))
    process = refs.Process(77, str(tmp_path))
    assert list(pages.resident(process)) == [(0x10000, 0x14000, "rw-p", b"[heap]", [1, 3]),
                                             (0x28000, 0x29000, "r--s", b"/a b", [200])]
    hidden = array.array("Q", [1 << 63] * 64)
    (tmp_path / "proc/77/pagemap").write_bytes(hidden.tobytes())
    with pytest.raises(NotPermitted, match="CAP_SYS_ADMIN"):
        list(pages.resident(process))


def test_idle_pages_of_a_cgroup(tmp_path):
    Machine(tmp_path)
    owners = array.array("Q", [7] * 1024)
    owners[2], owners[203] = 9, 10
    (tmp_path / "proc/kpagecgroup").write_bytes(owners.tobytes())
    assert idle.IdlePages(str(tmp_path)).cgroup_frames({9, 10}) == [2, 203]


def test_without_idle_page_tracking(tmp_path):
    with pytest.raises(Unavailable, match="CONFIG_IDLE_PAGE_TRACKING"):
        idle.IdlePages(str(tmp_path))


def test_idle_writes_are_whole_words_of_at_most_a_page(tmp_path, monkeypatch):
    frames = 64 * (PAGE // 8) * 2 + 70
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/kpageflags").write_bytes(array.array("Q", [LRU] * frames).tobytes())
    bitmap = tmp_path / "sys/kernel/mm/page_idle/bitmap"
    bitmap.parent.mkdir(parents=True)
    bitmap.write_bytes(bytes((frames // 64 + 1) * 8))
    sizes, write = [], os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: (sizes.append((len(data), at)), write(fd, data, at))[1])
    pages = idle.IdlePages(str(tmp_path))
    pages.mark(range(frames))
    assert sizes == [(PAGE, 0), (PAGE, PAGE), (16, 2 * PAGE)]
    found, _, _ = pages.touched(range(frames))
    assert not any(found.values()) and len(found) == frames


def test_regions():
    page = [(at * PAGE, (at + 1) * PAGE) for at in range(10)]
    assert damon.regions_of([(0, 10 * PAGE)], 100) == page
    assert damon.regions_of([(0, 2 * PAGE), (4 * PAGE, 5 * PAGE)], 100) == page[:2] + [page[4]]
    big = damon.regions_of([(0, 1000 * PAGE), (1 << 40, (1 << 40) + 1000 * PAGE)], 100)
    assert len(big) <= 101 and sum(end - start for start, end in big) == 2000 * PAGE
    assert all(a[1] <= b[0] for a, b in zip(big, big[1:]))
    scattered = damon.regions_of([(at * 10 * PAGE, (at * 10 + 1) * PAGE) for at in range(1000)], 100)
    assert len(scattered) <= 200 and scattered[0][0] == 0 and scattered[-1][1] == 9991 * PAGE
    assert damon.standard_error(page, 3 * PAGE) == 0
    two = [(at, at + 2 * PAGE) for at in range(0, 200 * PAGE, 2 * PAGE)]
    assert damon.standard_error(two, 100 * PAGE) == pytest.approx(10 * PAGE)
    assert damon.standard_error(two, 0) == damon.standard_error([], 0) == 0


def damon_tree(root, used="0", operations="vaddr\nfvaddr\npaddr\n"):
    top = root / "sys/kernel/mm/damon/admin/kdamonds"
    files = ["nr_kdamonds", "0/state", "0/contexts/nr_contexts"]
    context = "0/contexts/0/"
    files += [context + name for name in (
        "operations", "targets/nr_targets", "targets/0/pid_target", "targets/0/regions/nr_regions",
        "schemes/nr_schemes")]
    files += [context + "monitoring_attrs/intervals/" + name for name in ("sample_us", "aggr_us", "update_us")]
    files += [context + "targets/0/regions/%d/%s" % (i, end) for i in range(3) for end in ("start", "end")]
    for scheme in "01":
        base = context + "schemes/%s/" % scheme
        files += [base + "action", base + "stats/sz_tried"]
        files += [base + "access_pattern/%s/%s" % (name, end) for name in ("sz", "nr_accesses", "age")
                  for end in ("min", "max")]
    for name in files:
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text("")
    (top / "nr_kdamonds").write_text(used + "\n")
    (top / context / "avail_operations").write_text(operations)
    (top / context / "monitoring_attrs/nr_regions").mkdir()
    (top / context / "monitoring_attrs/nr_regions/min").write_text("10\n")
    (top / context / "monitoring_attrs/nr_regions/max").write_text("1000\n")
    return top


def test_damon_is_set_up_as_documented_and_left_as_found(tmp_path, monkeypatch):
    top = damon_tree(tmp_path)
    written = []
    write = damon.Damon._write
    monkeypatch.setattr(damon.Damon, "_write",
                        lambda self, path, text: (written.append((path, text)), write(self, path, text)))
    kdamond = damon.Damon(str(tmp_path))
    kdamond.start(77, [(0x1000, 0x2000), (0x2000, 0x3000), (0x9000, 0xa000)], .25)
    context = "0/contexts/0/"
    assert written[:2] == [("nr_kdamonds", "1"), ("0/contexts/nr_contexts", "1")]
    assert written[-1] == ("0/state", "on")
    asked = dict(written)
    attributes = context + "monitoring_attrs/"
    assert {asked[attributes + "intervals/" + n] for n in ("sample_us", "aggr_us", "update_us")} == {"250000"}
    assert asked[attributes + "nr_regions/min"] == asked[attributes + "nr_regions/max"] == "3"
    order = [path for path, _ in written if "nr_regions/m" in path]
    assert order[0].endswith("min")                     # the maximum may never be below the minimum
    assert asked[context + "targets/0/pid_target"] == "77" and asked[context + "operations"] == "fvaddr"
    assert asked[context + "targets/0/regions/2/start"] == str(0x9000)
    assert asked[context + "schemes/0/access_pattern/nr_accesses/min"] == "1"
    assert asked[context + "schemes/1/access_pattern/nr_accesses/min"] == "0"
    for scheme, size in (0, 4096), (1, 12288):
        (top / context / ("schemes/%d/stats/sz_tried" % scheme)).write_text("%d\n" % size)
    assert kdamond.result() == (4096, 12288)
    kdamond.close()
    assert written[-2:] == [("0/state", "off"), ("nr_kdamonds", "0")]


def test_damon_in_use_or_missing(tmp_path):
    with pytest.raises(Unavailable, match="CONFIG_DAMON_SYSFS"):
        damon.Damon(str(tmp_path))
    top = damon_tree(tmp_path, "1")
    with pytest.raises(Error, match="somebody has set it up"):
        damon.Damon(str(tmp_path))
    assert (top / "nr_kdamonds").read_text() == "1\n"
    (top / "0/contexts/0/avail_operations").write_text("paddr\n")
    with pytest.raises(Unavailable, match="CONFIG_DAMON_VADDR"):
        damon.Damon(str(tmp_path))
    (top / "nr_kdamonds").write_text("0\n")
    with pytest.raises(Unavailable, match="CONFIG_DAMON_VADDR"):
        damon.Damon(str(tmp_path))
    assert (top / "nr_kdamonds").read_text() == "0\n"      # (a file is not cut: "0" over "0\n")


@pytest.mark.parametrize("points, even, index", [
    ([(1, 10), (2, 20), (4, 40), (8, 40), (16, 40)], True, 2),      # a cycle of 4 s
    ([(1, 30), (2, 36), (3, 38), (4, 39), (5, 40)], False, 0),      # all is hot: the curve starts at 0
    ([(1, 10), (2, 20), (3, 30), (4, 40)], False, None),            # a scan
    ([(1, 10), (2, 10), (4, 10)], True, 0),                         # flat
    ([(1, 1), (2, 2), (4, 4), (8, 8), (16, 16)], True, None),       # doubles with time: never above its chord
    ([(1, 10), (2, 40)], True, None), ([], True, None), ([(1, 0), (2, 0), (3, 0)], False, None)])
def test_knee(points, even, index):
    assert plot.knee(points, even) == index


def test_plot():
    points = [(.01, 10.0), (.02, 20.0), (.04, 40.0), (.08, 40.0), (.16, 40.0)]
    assert plot.lines(points, 2, True, ("Ref(MB)", "Est(s)"), wide=21, high=5) == """\
   Ref(MB)
     40.00 |          K    *    *
           |
     20.00 |     *
           |*
      0.00 |
           +---------------------
            0.01      0.04      0.16 Est(s)
"""
    assert plot.lines([], None, True, ("y", "x")) == ""
    assert "*" in plot.lines([(1, 0)], None, False, ("y", "x"))


@pytest.mark.parametrize("arguments", [[], ["x"], ["0", "1"], ["-1", "1"], ["1,x", "1"], ["1", "0"], ["1", "nan"],
                                       ["1", "1", "0"],
                                       ["-C", "1"], ["-P", "3", "1"], ["-s", "1", "1"], ["-s", "-1", "1", "1"],
                                       ["-s", "x", "1", "1"], ["-C", "-P", "3", "1", "1"], ["-d", "3", "1", "1"],
                                       ["--plot", "1", "1"], ["-P", "0", "1", "1"], ["-P", "99", "1", "1"],
                                       ["-P", "3", "1", "1", "2"], ["-c", "/", "1", "1", "1"],
                                       ["-c", "/", "--tree", "1"],
                                       ["--source", "damon", "1"], ["--source", "damon", "-C", "1", "1"],
                                       ["--source", "x", "1", "1"], ["1\x1b\n", "1"], ["1", "1", "1", "1"]])
def test_usage_errors(arguments):
    result = run("wss", *arguments)
    assert result.returncode == 2 and result.stdout == ""
    assert result.stderr.count("\n") == 1 and result.stderr.startswith("wss: ") and "\x1b" not in result.stderr


def test_no_such_cgroup():
    result = run("wss", "-c", "/no/such/cgroup", ".1")
    assert result.returncode == 1 and result.stderr == "wss: no such cgroup: /no/such/cgroup\n"
