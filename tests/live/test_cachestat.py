# SPDX-License-Identifier: GPL-2.0-or-later
"""cachestat on the running kernel, page by page, against mincore(2) and workloads whose truth is known.  Needs root."""

import json
import mmap
import os
import re
import subprocess
import sys
import time

import pytest
from helpers import (SLOW, as_nobody, attached, fails_to_write, needs_quiet_machine, peak_memory, refuses, run, stop,
                     usable)
from pagefiles import PAGE, read, resident, rewrite, touch

SOURCES = ("fentry", "tracepoint", "kprobe")
PAGES = 1024


def start(*args, **kwargs):
    """A cachestat that has attached and taken the first sums."""
    child = attached("cachestat", *args, **kwargs)
    time.sleep(.2 * min(SLOW, 5))
    return child


def measured(action, *args):
    """The records of an interval in which this process did `action`."""
    child = start("-j", "-p", str(os.getpid()), "--top", "1000", *args, "3600")
    action()
    return [json.loads(line) for line in stop(child).splitlines()]


def of_file(path, action, *args):
    """The record of one file, so that nothing else that this process touches disturbs; zeros when it has none."""
    found = [r for r in measured(action, "--by", "file", *args) if r.get("file") == str(path)]
    return found[0] if found else dict.fromkeys(("hits", "misses", "dirties", "readahead_pages", "added_pages",
                                                 "write_pages", "dropped_pages"), 0)


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


def pread(path):
    fd = os.open(path, os.O_RDONLY)
    for page in range(PAGES):
        os.pread(fd, PAGE, page * PAGE)
    os.close(fd)


def send(path):
    source, sink = os.open(path, os.O_RDONLY), os.open("/dev/null", os.O_WRONLY)
    while os.sendfile(sink, source, None, 1 << 16):
        pass
    os.close(source)
    os.close(sink)


def whole(path):
    assert resident(path) == PAGES, "somebody else took pages out of the cache"


WAYS = {"read 128 KiB": lambda path: read(path, 1 << 17), "read 1 MiB": lambda path: read(path, 1 << 20),
        "pread 4 KiB": pread, "mmap": touch, "sendfile": send}


@needs_quiet_machine
def check_cold_and_warm(path, way, *source):
    evict(path)
    cold = of_file(path, lambda: WAYS[way](path), *source)
    whole(path)
    assert cold["misses"] + cold["readahead_pages"] == pytest.approx(PAGES, rel=.01)
    assert cold["added_pages"] == pytest.approx(PAGES, rel=.01)
    assert 1 <= cold["misses"] <= PAGES and cold["dirties"] == 0
    warm = of_file(path, lambda: WAYS[way](path), *source)
    whole(path)
    assert warm["hits"] == pytest.approx(PAGES, rel=.01)
    assert warm["misses"] <= .01 * PAGES and warm["readahead_pages"] <= .01 * PAGES
    assert warm["hit_ratio"] >= .99


@pytest.mark.parametrize("way", [pytest.param(way, marks=[pytest.mark.guest] if way in ("read 1 MiB", "mmap") else [])
                                 for way in WAYS])
@pytest.mark.parametrize("source", SOURCES)
def test_truth_of_cold_and_warm_reads(tmp_path, source, way):
    usable("cachestat", source, "0.01", "1")
    check_cold_and_warm(make(tmp_path / "file"), way, "--source", source)


@pytest.mark.parametrize("way", ["read 128 KiB", "mmap"])
@pytest.mark.parametrize("source", SOURCES)
def test_truth_of_a_sparse_file(tmp_path, source, way):
    usable("cachestat", source, "0.01", "1")
    check_cold_and_warm(make(tmp_path / "file", sparse=True), way, "--source", source)


@pytest.mark.guest
@pytest.mark.parametrize("source", SOURCES)
def test_truth_of_a_rewrite_in_place(tmp_path, source):
    usable("cachestat", source, "0.01", "1")
    check_rewrite(make(tmp_path / "file"), source)


@needs_quiet_machine
def check_rewrite(path, source):
    evict(path)
    cold = of_file(path, lambda: rewrite(path), "--source", source)
    whole(path)
    assert cold["dirties"] == cold["write_pages"] == cold["added_pages"] == pytest.approx(PAGES, rel=.01)
    assert cold["misses"] == cold["readahead_pages"] == 0
    os.sync()
    warm = of_file(path, lambda: rewrite(path), "--source", source)
    assert warm["dirties"] == pytest.approx(PAGES, rel=.01) and warm["added_pages"] <= .01 * PAGES
    again = of_file(path, lambda: read(path, 1 << 17), "--source", source)
    assert again["hits"] == pytest.approx(PAGES, rel=.01) and again["hit_ratio"] >= .99


@pytest.mark.parametrize("kind", ["xfs", "btrfs"])
def test_truth_on_other_file_systems(tmp_path, kind):
    """Large folios, and file systems that dirty pages by their own ways, without buffer heads."""
    image, point = str(tmp_path / "image"), tmp_path / "mount"
    with open(image, "wb") as f:
        f.truncate(400 << 20)
    point.mkdir()
    for command in ["mkfs." + kind, "-q", "-f", image], ["mount", "-o", "loop", image, str(point)]:
        try:
            made = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, universal_newlines=True)
        except FileNotFoundError:
            pytest.skip(command[0] + " is not installed")
        if made.returncode:
            pytest.skip("%s: %s" % (" ".join(command[:1]), made.stderr.strip()))
    try:
        path = make(point / "file")
        for way in "read 128 KiB", "mmap":
            check_cold_and_warm(path, way)
        evict(path)
        cold = of_file(path, lambda: rewrite(path))
        assert cold["dirties"] == cold["write_pages"] == cold["added_pages"] == PAGES and cold["misses"] == 0
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
    assert ahead["readahead_pages"] == there > 0 and ahead["misses"] == ahead["hits"] == 0
    assert of_file(path, lambda: evict(path))["dropped_pages"] == there


def test_half_a_window_in_the_cache_is_not_the_whole(tmp_path):
    """A fault maps what is there of the 16 pages around it, and only that is a hit."""
    path = make(tmp_path / "file")
    evict(path)
    fd = os.open(path, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
    for page in range(0, 64, 2):
        os.pread(fd, 1, page * PAGE)
    os.close(fd)
    there = resident(path)
    if there != 32:
        pytest.skip("the file system keeps %d pages for 32 single reads: large folios" % there)

    def touch_some():
        fd = os.open(path, os.O_RDONLY)
        with mmap.mmap(fd, 0, prot=mmap.PROT_READ) as memory:
            sum(memory[page * PAGE] for page in range(0, 64, 2))
        os.close(fd)

    found = of_file(path, touch_some)
    assert (found["hits"], found["misses"]) == (32, 0)


def test_sums_agree_with_each_other_and_with_the_kernel(tmp_path):
    """Every page that enters is explained once; dirtied pages are vmstat's nr_dirtied."""
    from crisis import proc
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
    assert total["added_pages"] <= total["misses"] + total["readahead_pages"] + total["write_pages"] \
        + total["metadata_pages"]
    assert total["misses"] == total["miss_read_pages"] + total["miss_mmap_pages"]
    # Others write too before and after the two readings of vmstat.
    assert 3 * PAGES <= total["dirties"] and after - before <= total["dirties"] * 1.02 + 50


def test_tables_name_who_missed(tmp_path):
    path = make(tmp_path / "file")
    evict(path)
    found = measured(lambda: read(path, 1 << 17), "--by", "process")
    assert [r["pid"] for r in found if r["record"] == "process"] == [os.getpid()]
    total, row = found[0], found[1]
    assert row["comm"] and row["misses"] == total["misses"] and row["hits"] == total["hits"] >= PAGES - row["misses"]
    device = os.stat(path).st_dev
    rows = [r for r in measured(lambda: pread(path), "--by", "fs") if r["record"] == "fs"]
    assert any(r["dev"] == "%d:%d" % (os.major(device), os.minor(device)) and r["mount"] and r["hits"] >= PAGES
               for r in rows), rows
    rows = [r for r in measured(lambda: pread(path), "--by", "cgroup") if r["record"] == "cgroup"]
    assert len(rows) == 1 and rows[0]["cgroup"].startswith("/") and rows[0]["hits"] >= PAGES


def reader(path, *wrap, before=None):
    """A child that reads the file once and ends."""
    code = "import sys\nfor p in sys.argv[1:]: open(p, 'rb', 0).read()"
    subprocess.check_call([*wrap, sys.executable, "-I", "-c", code, path], preexec_fn=before)


def test_cgroup_filter(tmp_path):
    from crisis import proc
    path = make(tmp_path / "file")
    other = make(tmp_path / "other")
    mounts = proc.cgroup_mounts()
    if not mounts:
        pytest.skip("no cgroup file system is mounted")
    for point, _, controllers in mounts:
        if controllers is not None and "cpu" not in controllers:
            continue
        directory = "%s/crisis-cachestat-%d" % (point, os.getpid())
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
            time.sleep(.1)
            os.rmdir(directory)


@pytest.mark.guest
def test_names_of_deleted_hostile_and_foreign_files(tmp_path):
    deleted = make(tmp_path / "gone")
    name = str(tmp_path / "\x1b[31m\n\"\\") + "\udcff"
    make(name)

    def read_deleted():
        fd = os.open(deleted, os.O_RDONLY)
        os.unlink(deleted)
        os.read(fd, 1 << 20)
        os.close(fd)
        read(name, 1 << 17)

    found = {r.get("file") for r in measured(read_deleted, "--by", "file")}
    assert deleted + " (deleted)" in found
    assert str(tmp_path) + "/\x1b[31m\n\"\\\\xff" in found
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
    assert lines[0].split() == ["TIME", "HITS", "MISSES", "DIRTIES", "HITRATIO", "BUFFERS_MB", "CACHED_MB"]
    for line in lines[1:]:
        assert re.fullmatch(r"\d\d:\d\d:\d\d +\d+ +\d+ +\d+ +(\d+\.\d\d%|-) +\d+ +\d+", line), line
    reasons = run("cachestat", "--reasons", ".2", "2").stdout.splitlines()
    assert len(reasons) == 3 and all(len(line) == len(reasons[0]) for line in reasons)
    assert reasons[0].split()[6:] == ["MISS_READ", "MISS_MMAP", "READAHEAD", "WRITE", "METADATA", "RECLAIMED",
                                      "DROPPED", "REFAULTS"]


@pytest.mark.parametrize("by, last", [("file", "FILE"), ("process", "COMM"), ("cgroup", "CGROUP"), ("fs", "MOUNT")])
def test_every_table_prints(by, last):
    result = run("cachestat", "--by", by, "--top", "3", ".3", "2")
    assert result.returncode == 0, result.stderr
    titles = [line.split() for line in result.stdout.splitlines() if line.split()[-1:] == [last]]
    assert len(titles) == 2 and titles[0][:5] == ["HITS", "MISSES", "DIRTIES", "HITRATIO", "READAHEAD"]


def test_nothing_is_a_dash(tmp_path):
    sleeper = subprocess.Popen(["sleep", "60"])
    try:
        time.sleep(.5)
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
    for extra in [], ["--by", "file"]:
        child = start("1", "1", *extra)
        peak = peak_memory(child.pid)
        child.communicate()
        assert peak <= 16 << 20
