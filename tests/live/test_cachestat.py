# SPDX-License-Identifier: GPL-2.0-or-later
"""cachestat on the running kernel, page by page, against mincore(2) and workloads whose truth is
known.  Needs root.
"""

import functools
import json
import mmap
import os
import random
import re
import resource
import subprocess
import sys
import time

import pytest

from crisis.kernel import cgroup, proc
from helpers import (
    ROOT,
    SLOW,
    as_nobody,
    attached,
    fails_to_write,
    needs_quiet_machine,
    peak_memory,
    refuses,
    run,
    stop,
    until,
)
from pagefiles import PAGE, read, resident, rewrite

SOURCES = ("fentry", "tracepoint", "kprobe")
PAGES = 1024


@functools.lru_cache(None)
def why_unusable(source):
    result = run("cachestat", "--source", source, "0.01", "1")
    assert result.returncode in (0, 69), result.stderr
    return result.stderr.strip() if result.returncode else None


def usable(source):
    """Skip the test, and say why, where a way to measure is not to be had; tried once, since guests
    are slow.
    """
    if why_unusable(source):
        pytest.skip(f"--source {source}: {why_unusable(source)}")


def start(*args, **kwargs):
    """A cachestat that has attached and taken the first sums."""
    child = attached("cachestat", *args, **kwargs)
    time.sleep(0.2 * min(SLOW, 5))
    return child


def measured(action, *args):
    """The records of an interval in which this process did `action`."""
    child = start("-j", "-p", str(os.getpid()), "--top", "1000", *args, "3600")
    action()
    return [json.loads(line) for line in stop(child).splitlines()]


def of_file(path, action, *args):
    """The record of one file, so that nothing else that this process touches disturbs; zeros when
    it has none.

    Of the total record it has "lost".
    """
    records = measured(action, "--by", "file", *args)
    found = [r for r in records if r.get("file") == str(path)]
    if not found:
        found = [dict.fromkeys(records[0], 0)]
        found[0]["hit_ratio"] = None
    return dict(found[0], lost=records[0]["lost"])


def make(path, sparse=False):
    with open(path, "wb") as f:
        if sparse:
            f.truncate(PAGES * PAGE)
        else:
            f.write(b"x" * (PAGES * PAGE))
        os.fsync(f.fileno())
    return str(path)


def evict(path):
    """Drop the file's pages; whatever holds one for a moment is waited for."""
    deadline = time.monotonic() + 20 * SLOW
    while resident(path):
        assert time.monotonic() < deadline, "pages stay in the cache"
        fd = os.open(path, os.O_RDONLY)
        os.fdatasync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


def pread(path, pages=range(PAGES), advice=os.POSIX_FADV_NORMAL):
    """Single pages."""
    fd = os.open(path, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, advice)
    for page in pages:
        os.pread(fd, PAGE, page * PAGE)
    os.close(fd)


def send(path):
    source, sink = os.open(path, os.O_RDONLY), os.open("/dev/null", os.O_WRONLY)
    while os.sendfile(sink, source, None, 1 << 16):
        pass
    os.close(source)
    os.close(sink)


def splice(path):
    """By splice(2), which Python has since 3.10."""
    source, (pipe, end) = os.open(path, os.O_RDONLY), os.pipe()
    while os.splice(source, end, 1 << 16):
        os.read(pipe, 1 << 16)
    for fd in source, pipe, end:
        os.close(fd)


def touch(path, pages, advice=None):
    """Pages through a mapping; returns the number of page faults."""

    def faults():
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return usage.ru_minflt + usage.ru_majflt

    with open(path, "rb") as f, mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ) as memory:
        if advice is not None:
            memory.madvise(advice)
        before = faults()
        for page in pages:
            memory[page * PAGE]
        return faults() - before


def whole(path):
    assert resident(path) == PAGES, "somebody else took pages out of the cache"


def scattered(count, pages=PAGES):
    """Page numbers of which no two follow each other."""
    return random.Random(1).sample(range(0, pages, 2), count)


WAYS = {
    "read 1 MiB": lambda path: read(path, 1 << 20),
    "read 128 KiB": lambda path: read(path, 1 << 17),
    "one read": lambda path: read(path, PAGES * PAGE),
    "pread 4 KiB": pread,
    "sendfile": send,
    "splice": splice,
}


@needs_quiet_machine
def check_cold_and_warm(path, way, *source):
    evict(path)
    cold = of_file(path, lambda: WAYS[way](path), *source)
    whole(path)
    assert cold["misses"] == cold["added_pages"] == pytest.approx(PAGES, rel=0.01)
    assert cold["hit_ratio"] <= 0.02 and cold["dirties"] == cold["mmap_faults"] == 0
    assert cold["read_pages"] == pytest.approx(PAGES, rel=0.01)
    assert (
        cold["miss_read_pages"] >= 1
        and cold["miss_read_pages"] + cold["readahead_pages"] == cold["misses"]
    )
    warm = of_file(path, lambda: WAYS[way](path), *source)
    whole(path)
    assert warm["hits"] == pytest.approx(PAGES, rel=0.01) and warm["misses"] <= 0.01 * PAGES
    assert warm["hit_ratio"] >= 0.98 and warm["demand_hit_ratio"] >= 0.98


@pytest.mark.parametrize(
    "way",
    [
        pytest.param(way, marks=[pytest.mark.guest] if way in ("read 1 MiB", "pread 4 KiB") else [])
        for way in WAYS
    ],
)
@pytest.mark.parametrize("source", SOURCES)
def test_truth_of_cold_and_warm_reads(tmp_path, source, way):
    if way == "splice" and not hasattr(os, "splice"):
        pytest.skip("this Python has no os.splice")
    usable(source)
    check_cold_and_warm(make(tmp_path / "file"), way, "--source", source)


@pytest.mark.parametrize("source", SOURCES)
def test_truth_of_a_sparse_file(tmp_path, source):
    usable(source)
    check_cold_and_warm(make(tmp_path / "file", sparse=True), "read 128 KiB", "--source", source)


@needs_quiet_machine
def check_random(path, *source):
    pages = scattered(300)
    evict(path)
    cold = of_file(path, lambda: pread(path, pages, os.POSIX_FADV_RANDOM), *source)
    assert (
        cold["misses"] == resident(path) and cold["hits"] == 0 and cold["read_pages"] == len(pages)
    )
    warm = of_file(path, lambda: pread(path, pages), *source)
    assert warm["hits"] == len(pages) and warm["misses"] == 0


@needs_quiet_machine
def check_half_cached(path, *source):
    evict(path)
    read(path, 1 << 17)
    fd = os.open(path, os.O_RDONLY)
    os.posix_fadvise(fd, PAGES // 2 * PAGE, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)
    there = resident(path)
    assert there <= 0.6 * PAGES, "the second half stays in the cache"
    found = of_file(path, lambda: read(path, 1 << 20), *source)
    whole(path)
    assert found["hits"] == pytest.approx(there, rel=0.01) and found["misses"] == pytest.approx(
        PAGES - there, rel=0.01
    )
    assert found["hit_ratio"] == pytest.approx(there / PAGES, abs=0.02)


@pytest.mark.guest
@pytest.mark.parametrize("source", SOURCES)
def test_truth_of_random_reads_and_of_a_file_half_cached(tmp_path, source):
    usable(source)
    path = make(tmp_path / "file")
    check_random(path, "--source", source)
    check_half_cached(path, "--source", source)


def readahead_is_not_a_hit_until_it_is_read_again(path, *source):
    """The first quarter of a file, again and again: what was read ahead of it is a miss, and never
    requested.
    """
    evict(path)

    def quarter():
        for _ in range(10):
            pread(path, range(PAGES // 4))

    found = of_file(path, quarter, *source)
    assert found["misses"] == resident(path) and found["hits"] == pytest.approx(
        9 * PAGES // 4, rel=0.01
    )


@pytest.mark.parametrize("source", SOURCES)
def test_readahead_is_not_a_hit_until_it_is_read_again(tmp_path, source):
    usable(source)
    needs_quiet_machine(readahead_is_not_a_hit_until_it_is_read_again)(
        make(tmp_path / "file"), "--source", source
    )


@needs_quiet_machine
def check_mapping(path, pages, advice, *source):
    """Cold, warm, and then by read(2)."""
    truth = []
    evict(path)
    cold = of_file(path, lambda: truth.append(touch(path, pages, advice)), *source)
    there = resident(path)
    assert cold["mmap_misses"] == cold["added_pages"] == pytest.approx(there, rel=0.01)
    assert cold["misses"] == cold["read_pages"] == 0 and cold["hit_ratio"] is None
    assert cold["mmap_hits"] <= max(2, 0.02 * truth[0])
    warm = of_file(path, lambda: truth.append(touch(path, pages, advice)), *source)
    assert resident(path) == there and warm["mmap_misses"] <= 0.01 * there
    assert warm["mmap_hits"] >= 0.98 * warm["mmap_faults"]
    for found, faults in (cold, truth[0]), (warm, truth[1]):
        if found["lost"]["huge_faults"] is None:  # those on huge pages are not seen
            assert found["mmap_faults"] <= faults + 2
        else:
            assert found["mmap_faults"] == pytest.approx(faults, rel=0.02, abs=2)
    again = of_file(path, lambda: pread(path, pages), *source)
    assert again["hits"] == len(pages) and again["misses"] == 0


@pytest.mark.guest
@pytest.mark.parametrize("source", SOURCES)
def test_truth_of_mapped_files(tmp_path, source):
    usable(source)
    path = make(tmp_path / "file")
    check_mapping(path, range(PAGES), None, "--source", source)
    check_mapping(path, scattered(100), mmap.MADV_RANDOM, "--source", source)


@pytest.mark.guest
@pytest.mark.parametrize("source", SOURCES)
def test_truth_of_a_rewrite_in_place(tmp_path, source):
    usable(source)
    check_rewrite(make(tmp_path / "file"), source)


@needs_quiet_machine
def check_rewrite(path, source):
    evict(path)
    cold = of_file(path, lambda: rewrite(path), "--source", source)
    whole(path)
    assert (
        cold["dirties"]
        == cold["write_pages"]
        == cold["added_pages"]
        == pytest.approx(PAGES, rel=0.01)
    )
    assert cold["misses"] == cold["readahead_pages"] == cold["read_pages"] == 0
    os.sync()
    warm = of_file(path, lambda: rewrite(path), "--source", source)
    assert warm["dirties"] == pytest.approx(PAGES, rel=0.01) and warm["added_pages"] <= 0.01 * PAGES
    again = of_file(path, lambda: read(path, 1 << 17), "--source", source)
    assert again["hits"] == pytest.approx(PAGES, rel=0.01) and again["hit_ratio"] >= 0.99
    # Read from disk, then written: these are misses, and no pages that were added to be written to.
    evict(path)
    both = of_file(path, lambda: (read(path, PAGE), rewrite(path)), "--source", source)
    whole(path)
    assert (
        both["misses"] == pytest.approx(PAGES, rel=0.01)
        and both["write_pages"] == both["hits"] == 0
    )
    os.sync()


@pytest.mark.parametrize("kind", ["xfs", "btrfs"])
def test_truth_on_other_file_systems(tmp_path, kind):
    """Large folios, and file systems that dirty pages by their own ways, without buffer heads."""
    image, point = str(tmp_path / "image"), tmp_path / "mount"
    with open(image, "wb") as f:
        f.truncate(400 << 20)
    point.mkdir()
    for command in ["mkfs." + kind, "-q", "-f", image], ["mount", "-o", "loop", image, str(point)]:
        try:
            made = subprocess.run(
                command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
            )
        except FileNotFoundError:
            pytest.skip(command[0] + " is not installed")
        if made.returncode:
            pytest.skip(f"{' '.join(command[:1])}: {made.stderr.strip()}")
    try:
        path = make(point / "file")
        check_cold_and_warm(path, "read 1 MiB")
        check_half_cached(path)
        check_mapping(path, range(PAGES), None)
        evict(path)
        cold = of_file(path, lambda: rewrite(path))
        assert (
            cold["dirties"] == cold["write_pages"] == cold["added_pages"] == PAGES
            and cold["misses"] == 0
        )
    finally:
        subprocess.check_call(["umount", str(point)])


def test_prefetching_is_readahead_and_dropping_is_seen(tmp_path):
    check_prefetching(make(tmp_path / "file"))


@needs_quiet_machine
def check_prefetching(path):
    evict(path)

    def prefetch():
        fd = os.open(path, os.O_RDONLY)
        os.posix_fadvise(fd, 0, 256 * PAGE, os.POSIX_FADV_WILLNEED)
        os.close(fd)

    ahead = of_file(path, prefetch)
    there = resident(path)
    assert (
        ahead["readahead_pages"] == ahead["misses"] == there > 0
        and ahead["hits"] == ahead["read_pages"] == 0
    )
    assert of_file(path, lambda: evict(path))["dropped_pages"] == there


def test_page_faults_on_huge_pages_are_counted_or_said_to_be_missing(tmp_path):
    path = str(tmp_path / "file")
    with open(path, "wb") as f:
        f.write(b"x" * (64 << 20))
        os.fsync(f.fileno())
    evict(path)
    read(path, 1 << 20)
    with open(path, "rb") as f, mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ) as memory:
        sum(memory[::PAGE])
        if not proc.meminfo().get("FilePmdMapped"):
            pytest.skip(
                "no huge page of a file is mapped: its folios are smaller, or not aligned with "
                "the mapping"
            )
        result = run("cachestat", ".2", "1")
        record = json.loads(run("cachestat", "-j", ".2", "1").stdout)
    assert ("huge pages" in result.stderr) == (record["lost"]["huge_faults"] is None)
    assert all(len(line) <= 80 for line in result.stderr.splitlines())


def test_a_block_device(tmp_path):
    """Its pages count as misses when they are requested, since most are added for the file system
    itself.
    """
    image = make(tmp_path / "image")
    made = subprocess.run(["losetup", "-f", "--show", image], capture_output=True, text=True)
    if made.returncode:
        pytest.skip("losetup: " + made.stderr.strip())
    device = made.stdout.strip()
    try:
        check_block_device(device)
    finally:
        subprocess.check_call(["losetup", "-d", device])


@needs_quiet_machine
def check_block_device(device):
    opened = os.open(device, os.O_RDONLY)  # the last to close it drops its pages
    try:
        os.posix_fadvise(opened, 0, 0, os.POSIX_FADV_DONTNEED)
        cold = of_file(device, lambda: read(device, 1 << 17))
        assert (
            cold["misses"] + cold["hits"] == pytest.approx(PAGES, rel=0.01)
            and cold["hit_ratio"] <= 0.02
        )
        assert cold["metadata_pages"] <= 0.02 * PAGES
        warm = of_file(device, lambda: read(device, 1 << 17))
        assert (
            warm["hits"] == pytest.approx(PAGES, rel=0.01)
            and warm["misses"] == warm["metadata_pages"] == 0
        )
    finally:
        os.close(opened)


def test_an_overlay(tmp_path):
    """The file of the layer has the pages, and the row."""
    for name in "low", "up", "work", "mount":
        (tmp_path / name).mkdir()
    low, point = make(tmp_path / "low/file"), str(tmp_path / "mount")
    options = f"lowerdir={tmp_path}/low,upperdir={tmp_path}/up,workdir={tmp_path}/work"
    made = subprocess.run(
        ["mount", "-t", "overlay", "overlay", "-o", options, point],
        stderr=subprocess.PIPE,
        text=True,
    )
    if made.returncode:
        pytest.skip("mount: " + made.stderr.strip())
    try:
        needs_quiet_machine(check_overlay)(low, point + "/file")
    finally:
        subprocess.check_call(["umount", point])


def check_overlay(low, path):
    evict(low)
    cold, warm = (of_file(low, lambda: read(path, 1 << 17)) for _ in range(2))
    whole(low)
    assert cold["misses"] == warm["hits"] == PAGES and cold["hits"] == warm["misses"] == 0


def test_two_readers_count_a_page_once(tmp_path):
    """In step, on one cold file: what one has brought the other hits."""
    needs_quiet_machine(check_two_readers)(make(tmp_path / "file"))


def check_two_readers(path):
    evict(path)
    code = "import os,sys\nf=os.open(sys.argv[1],0)\nwhile os.read(f,4096): pass"
    child = start("-j", "--by", "file", "--top", "1000", "3600")
    readers = [subprocess.Popen([sys.executable, "-IS", "-c", code, path]) for _ in range(2)]
    assert [reader.wait() for reader in readers] == [0, 0]
    found = [r for r in map(json.loads, stop(child).splitlines()) if r.get("file") == path]
    whole(path)
    assert (
        found[0]["misses"] == pytest.approx(PAGES, rel=0.01) and found[0]["read_pages"] == 2 * PAGES
    )
    assert found[0]["hits"] == pytest.approx(PAGES, rel=0.01)


BIG = 51200 if SLOW == 1 else 8192  # pages of 200 or 32 MiB


def system_wide(action):
    """(hits, misses, hit ratio) of all tasks, without a filter, less those of others on this
    machine.

    Meanwhile twenty programs start.  action: called; returns the PID that it has used.
    """
    child = start("-j", "--by", "process", "--top", "100000", "3600")
    programs = [subprocess.Popen(["/bin/true"]) for _ in range(20)]
    ours = {action()} | {program.pid for program in programs}
    assert not any(program.wait() for program in programs)
    total, *rows = (json.loads(line) for line in stop(child).splitlines())
    hits, misses = (
        total[key] - sum(r[key] for r in rows if r["pid"] not in ours) for key in ("hits", "misses")
    )
    return hits, misses, 100 * hits / (hits + misses)


@pytest.mark.guest
def test_truth_of_a_large_file_while_programs_start(tmp_path):
    """200 MiB by cat(1): from disk, from the cache, half from the cache; and single pages in random
    order.
    """
    path = str(tmp_path / "file")
    with open(path, "wb") as f:
        for _ in range(BIG // 256):
            f.write(b"x" * (256 * PAGE))
        os.fsync(f.fileno())
    check_large_file(path)


@needs_quiet_machine
def check_large_file(path):
    def cat():
        child = subprocess.Popen(["cat", path], stdout=subprocess.DEVNULL)
        assert child.wait() == 0 and resident(path) == BIG, (
            "somebody else took pages out of the cache"
        )
        return child.pid

    def single():
        pread(path, scattered(BIG // 4, BIG), os.POSIX_FADV_RANDOM)
        return os.getpid()

    evict(path)
    hits, misses, ratio = system_wide(cat)
    assert misses == pytest.approx(BIG, rel=0.01) and ratio <= 2
    hits, misses, ratio = system_wide(cat)
    assert hits >= 0.99 * BIG and ratio >= 98  # total and rows are not read in the same instant
    fd = os.open(path, os.O_RDONLY)
    os.posix_fadvise(fd, BIG // 2 * PAGE, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)
    there = resident(path)
    hits, misses, ratio = system_wide(cat)
    assert misses == pytest.approx(BIG - there, rel=0.01) and ratio == pytest.approx(
        100 * there / BIG, abs=2
    )
    evict(path)
    hits, misses, ratio = system_wide(single)
    assert misses == pytest.approx(resident(path), rel=0.01) and ratio <= 2


def test_sums_agree_with_each_other_and_with_the_kernel(tmp_path):
    """Every page that enters is explained once; dirtied pages are vmstat's nr_dirtied."""
    path = make(tmp_path / "file")
    child = start("-j", "3600")
    before = proc.vmstat("nr_dirtied")
    for _ in range(3):
        evict(path)
        rewrite(path)
        read(path, 1 << 17)
    text = stop(child)
    after = proc.vmstat("nr_dirtied")
    total = json.loads(text)
    assert (
        total["added_pages"]
        <= total["misses"] + total["mmap_misses"] + total["write_pages"] + total["metadata_pages"]
    )
    assert (
        total["misses"] + total["mmap_misses"]
        == total["miss_read_pages"] + total["miss_mmap_pages"] + total["readahead_pages"]
    )
    # Others write too before and after the two readings of vmstat.
    assert total["dirties"] >= 3 * PAGES and after - before <= total["dirties"] * 1.02 + 50


def test_tables_name_who_missed(tmp_path):
    path = make(tmp_path / "file")
    evict(path)
    found = measured(lambda: read(path, 1 << 17), "--by", "process")
    assert [r["pid"] for r in found if r["record"] == "process"] == [os.getpid()]
    total, row = found[0], found[1]
    assert (
        row["comm"] and row["misses"] == total["misses"] >= PAGES and row["hits"] == total["hits"]
    )
    device = os.stat(path).st_dev
    rows = [r for r in measured(lambda: pread(path), "--by", "fs") if r["record"] == "fs"]
    assert any(
        r["dev"] == f"{os.major(device)}:{os.minor(device)}" and r["mount"] and r["hits"] >= PAGES
        for r in rows
    ), rows
    rows = [r for r in measured(lambda: pread(path), "--by", "cgroup") if r["record"] == "cgroup"]
    assert len(rows) == 1 and rows[0]["cgroup"].startswith("/") and rows[0]["hits"] >= PAGES


def test_a_process_has_the_name_that_it_had_last(tmp_path):
    """A shell that becomes cat(1) has read its own files under the shell's name."""
    path = make(tmp_path / "file")
    child = start("-j", "--by", "process", "--top", "1000", "3600")
    shell = subprocess.Popen(
        ["sh", "-c", 'read line <"$0"; exec cat "$0"', path], stdout=subprocess.DEVNULL
    )
    assert shell.wait() == 0
    (row,) = [r for r in map(json.loads, stop(child).splitlines()) if r.get("pid") == shell.pid]
    assert row["comm"] == "cat" and row["hits"] >= PAGES


def reader(path, *wrap, before=None):
    """A child that reads the file once and ends."""
    code = "import sys\nfor p in sys.argv[1:]: open(p, 'rb', 0).read()"
    subprocess.check_call([*wrap, sys.executable, "-I", "-c", code, path], preexec_fn=before)


def test_cgroup_filter(tmp_path):
    path = make(tmp_path / "file")
    other = make(tmp_path / "other")
    mounts = cgroup.mounts()
    if not mounts:
        pytest.skip("no cgroup file system is mounted")
    for point, _, controllers in mounts:
        if controllers is not None and "cpu" not in controllers:
            continue
        directory = f"{point}/crisis-cachestat-{os.getpid()}"
        os.mkdir(directory)
        try:
            child = start("-j", "-c", directory, "--by", "file", "--top", "1000", "3600")

            def enter():
                with open(directory + "/cgroup.procs", "w") as f:
                    f.write(str(os.getpid()))

            reader(path, before=enter)
            reader(other)
            names = {r.get("file"): r["hits"] for r in map(json.loads, stop(child).splitlines())}
            assert names[path] >= PAGES and other not in names
        finally:
            time.sleep(0.1)
            os.rmdir(directory)


@pytest.mark.guest
def test_names_of_deleted_hostile_and_foreign_files(tmp_path):
    deleted = make(tmp_path / "gone")
    name = str(tmp_path / '\x1b[31m\n"\\') + "\udcff"
    make(name)

    def read_deleted():
        fd = os.open(deleted, os.O_RDONLY)
        os.unlink(deleted)
        os.read(fd, 1 << 20)
        os.close(fd)
        read(name, 1 << 17)

    found = {r.get("file") for r in measured(read_deleted, "--by", "file")}
    assert deleted + " (deleted)" in found
    assert str(tmp_path) + '/\x1b[31m\n"\\\\xff' in found
    child = start("--by", "file", "--top", "1000", "3600", "-p", str(os.getpid()))
    read(name, 1 << 17)
    text = stop(child)
    assert "\x1b" not in text and str(tmp_path) + r'/\x1b[31m\x0a"\\\xff' + "\n" in text

    # Seen through a mount that only another namespace has, it is still the file system's own file.
    if subprocess.call(["unshare", "-m", "true"], stderr=subprocess.DEVNULL):
        pytest.skip("mount namespaces cannot be made here")
    inner = make(tmp_path / "inner")
    (tmp_path / "mount").mkdir()
    child = start("-j", "--by", "file", "--top", "1000", "3600")
    script = 'mount --bind "$1" "$1/mount" && cat "$1/mount/inner" >/dev/null'
    subprocess.check_call(["unshare", "-m", "sh", "-c", script, "sh", str(tmp_path)])
    assert inner in {r.get("file") for r in map(json.loads, stop(child).splitlines())}


def test_text():
    result = run("cachestat", "-T", ".2", "3")
    lines = result.stdout.splitlines()
    assert result.returncode == 0 and len(lines) == 4
    assert lines[0].split() == [
        "TIME",
        "HITS",
        "MISSES",
        "DIRTIES",
        "HITRATIO",
        "BUFFERS_MB",
        "CACHED_MB",
        "MMAP_HITS",
        "MMAP_MISS",
    ]
    assert len(lines[0]) <= 80
    for line in lines[1:]:
        assert re.fullmatch(r"\d\d:\d\d:\d\d +\d+ +\d+ +\d+ +(\d+\.\d\d%|-)( +\d+){4}", line), line
    lines = run("cachestat", "-T", "--reasons", ".2", "2").stdout.splitlines()
    assert len(lines) == 12 and all(len(line) <= 80 for line in lines)
    titles = "MISS_READ MISS_MMAP READAHEAD WRITE METADATA RECLAIMED DROPPED REFAULTS".split()
    assert lines[3].split() == lines[9].split() == titles


@pytest.mark.parametrize(
    "by, last", [("file", "FILE"), ("process", "COMM"), ("cgroup", "CGROUP"), ("fs", "MOUNT")]
)
def test_every_table_prints(by, last):
    result = run("cachestat", "--by", by, "--top", "3", ".3", "2")
    assert result.returncode == 0, result.stderr
    titles = [line.split() for line in result.stdout.splitlines() if line.split()[-1:] == [last]]
    assert len(titles) == 2 and titles[0][:6] == [
        "HITS",
        "MISSES",
        "DIRTIES",
        "HITRATIO",
        "MMAP_HITS",
        "MMAP_MISS",
    ]


def test_many_files_keep_their_names_and_counts(tmp_path):
    """20,000 files, each read once while the banks are switched again and again."""
    files = [tmp_path / str(number) for number in range(20000)]
    for file in files:
        file.write_bytes(b"x")
    command = ["bin/cachestat", "-j", "--by", "file", "--top", "100000", ".3"]

    def reports():
        return (tmp_path / "output").read_text().count('"record":"total"')

    with open(tmp_path / "output", "w") as output:
        child = subprocess.Popen(command, cwd=ROOT, stdout=output)
        until(reports)  # from now on all reads are counted
        for number, file in enumerate(files):
            file.read_bytes()
            if number % 1000 == 0:
                time.sleep(0.1)
        # What comes while a report is written is in the next one, which SIGINT would prevent.
        number = reports()
        until(lambda: reports() >= number + 3, 90)  # of all files that anybody uses
        stop(child)
    with open(tmp_path / "output") as output:
        records = [json.loads(line) for line in output]
    pages = {}
    for record in records:
        if record["record"] == "total":
            assert (record["lost"]["names_lost"], record["lost"]["groups_full"]) == (0, 0)
        elif record["file"]:
            pages[record["file"]] = pages.get(record["file"], 0) + record["read_pages"]
    assert [file for file in map(str, files) if pages.get(file, 0) < 1] == []


def test_demand(tmp_path):
    """Readahead's pages are hits: a cold sequential read waits for a few."""
    path = make(tmp_path / "file")
    evict(path)
    child = start("--demand", "-p", str(os.getpid()), "3600")
    read(path, PAGE)
    line = stop(child).splitlines()[1].split()
    assert (
        int(line[0]) >= 0.9 * PAGES
        and 1 <= int(line[1]) <= 0.1 * PAGES
        and float(line[3].rstrip("%")) >= 90
    )


def test_nothing_is_a_dash(tmp_path):
    sleeper = subprocess.Popen(["sleep", "60"])
    try:
        time.sleep(0.5)
        lines = run("cachestat", "-p", str(sleeper.pid), ".1", "1").stdout.splitlines()
        record = json.loads(run("cachestat", "-j", "-p", str(sleeper.pid), ".1", "1").stdout)
        assert lines[1].split()[:4] == ["0", "0", "0", "-"] and record["hit_ratio"] is None
    finally:
        sleeper.kill()
        sleeper.wait()


def test_without_root():
    result = as_nobody("cachestat", "1", "1")
    assert result.returncode == 77 and result.stderr.count("\n") == 1 and "CAP_BPF" in result.stderr


def test_exits():
    refuses("cachestat", (["-p", "x"], ["--by", "x"], ["0"], ["--top", "0"], ["1", "x"]), "1", "1")
    fails_to_write("cachestat", ".1 1", ".1", "head -2")


def test_peak_memory():
    run("cachestat", ".01", "1")
    names = 8 << 20  # the buffer of names, which is mapped twice
    for limit, extra in (16 << 20, []), ((16 << 20) + 2 * names, ["--by", "file"]):
        child = start("1", "1", *extra)
        peak = peak_memory(child.pid)
        child.communicate()
        assert peak <= limit
