# SPDX-License-Identifier: GPL-2.0-or-later
"""cachesnoop on the running kernel, against files whose pages are known by mincore(2).

Needs root.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
from test_cachestat import PAGES, evict, make

import storm
from helpers import (
    SLOW,
    as_nobody,
    attached,
    fails_to_write,
    needs_quiet_machine,
    peak_memory,
    refuses,
    run,
    stop,
    usable,
)
from pagefiles import PAGE, read, resident

SOURCES = ("tracepoint", "raw")


def traced(action, *args):
    """The records of what this process did meanwhile."""
    child = attached("cachesnoop", "-j", "-p", str(os.getpid()), *args)
    action()
    return [json.loads(line) for line in stop(child).splitlines()]


def pages(records, path, event="add", once=True):
    """The set of a file's page numbers that were added or evicted; once: none twice.

    Before Linux 5.12 a read at the end of the file adds a page there (no_cached_page,
    generic_file_buffered_read).
    """
    found = [
        number
        for r in records
        if r["record"] == "event" and r["file"] == path and r["event"] == event
        for number in range(r["offset_bytes"] // PAGE, r["offset_bytes"] // PAGE + r["pages"])
    ]
    assert not once or len(found) == len(set(found))
    old = tuple(map(int, os.uname().release.split(".")[:2])) < (5, 12)
    return set(found) - ({PAGES} if old else set())


@pytest.mark.guest
@pytest.mark.parametrize("source", SOURCES)
def test_every_page_of_a_file_once(tmp_path, source):
    usable("cachesnoop", source, "-d", "0.01")
    path = make(tmp_path / "file")
    evict(path)
    found = traced(lambda: read(path, 1 << 17), "--source", source)
    assert resident(path) == PAGES and pages(found, path) == set(range(PAGES))
    mine = [r for r in found if r.get("file") == path]
    device = os.stat(path).st_dev
    assert {(r["pid"], r["tid"], r["inode"], r["dev"]) for r in mine} == {
        (os.getpid(), os.getpid(), os.stat(path).st_ino, f"{os.major(device)}:{os.minor(device)}")
    }
    assert all(r["comm"] for r in mine)
    out = traced(lambda: evict(path), "-e", "--source", source)
    assert pages(out, path, "evict") == set(range(PAGES))
    nothing = traced(lambda: evict(path))
    assert pages(nothing, path) == set()


@pytest.mark.guest
def test_1000_files_1000_names(tmp_path):
    paths, count = [], 1000 if SLOW == 1 else 200  # emulated, a thousand take minutes
    for number in range(count):
        directory = tmp_path / (f"d{number % 10}")
        directory.mkdir(exist_ok=True)
        paths.append(str(directory / (f"file-{number}")))
        with open(paths[-1], "wb") as f:
            f.write(b"x" * (number % 3 * PAGE + 1))
    os.sync()
    for path in paths:
        evict(path)

    def read_all():
        for path in paths:
            read(path, 1 << 16)

    found = traced(read_all)
    for number, path in enumerate(paths):
        assert pages(found, path) == set(range(number % 3 + 1)), path
    for path in paths:
        evict(path)
    summary = traced(read_all, "--summary")
    sums = {r["file"]: r["added_pages"] for r in summary if r["record"] == "file"}
    assert [sums.get(path) for path in paths] == [number % 3 + 1 for number in range(count)]
    total = summary[0]
    assert (
        total["record"] == "total" and total["files"] >= count and not any(total["lost"].values())
    )
    assert total["added_pages"] == sum(sums.values()) and total["evicted_pages"] is None


@pytest.mark.guest
def test_deleted_renamed_hostile_and_foreign_files(tmp_path):
    deleted, old = make(tmp_path / "gone"), make(tmp_path / "old")
    new = str(tmp_path / "new")
    hostile = make(str(tmp_path / '\x1b[31m\n"\\') + "\udcff")
    for path in deleted, old, hostile:
        evict(path)

    def action():
        fd = os.open(deleted, os.O_RDONLY)
        os.unlink(deleted)
        os.read(fd, PAGES * PAGE)
        os.close(fd)
        read(old, 1 << 17)
        os.rename(old, new)
        evict(new)
        read(new, 1 << 17)
        read(hostile, 1 << 17)

    found = traced(action)
    everything = set(range(PAGES))
    assert pages(found, deleted + " (deleted)") == everything
    assert pages(found, old) == everything and pages(found, new) == everything
    assert pages(found, str(tmp_path) + '/\x1b[31m\n"\\\\xff') == everything
    evict(hostile)
    child = attached("cachesnoop", "-p", str(os.getpid()))
    assert "mm_filemap_delete_from_page_cache" not in child.taken  # evictions cost nothing
    read(hostile, 1 << 17)
    text = stop(child)
    assert "\x1b" not in text and str(tmp_path) + r'/\x1b[31m\x0a"\\\xff' + "\n" in text


@pytest.mark.guest
def test_hostile_comm(tmp_path):
    path = make(tmp_path / "file")
    evict(path)
    child, other = attached("cachesnoop"), attached("cachesnoop", "-j")
    name = b'\x1b[31m\n"\\\xff'
    code = (
        f"import ctypes,sys\nctypes.CDLL(None).prctl(15, {name!r})\nopen(sys.argv[1], 'rb').read()"
    )
    subprocess.check_call([sys.executable, "-I", "-c", code, path])
    time.sleep(0.3)
    text, records = stop(child), [json.loads(line) for line in stop(other).splitlines()]
    assert "\x1b" not in text and r'\x1b[31m\x0a"\\\xff' in text
    assert {r["comm"] for r in records if r.get("file") == path} == {'\x1b[31m\n"\\\\xff'}


def test_a_file_that_only_another_mount_namespace_has(tmp_path):
    """On a file system of its own, so that nothing here knows where it is mounted."""
    image = str(tmp_path / "image")
    with open(image, "wb") as f:
        f.truncate(16 << 20)
    if subprocess.call(["mkfs.ext4", "-q", image], stderr=subprocess.DEVNULL):
        pytest.skip("mkfs.ext4 does not work here")
    (tmp_path / "mount").mkdir()
    script = (
        'mount -o loop "$1/image" "$1/mount" && head -c 1000000 /dev/zero >"$1/mount/inner" && '
        "sync && "
        'echo 1 && read go && cat "$1/mount/inner" >"$1/copy" && umount "$1/mount" && '
        'mount -o loop "$1/image" "$1/mount" && cat "$1/mount/inner" >"$1/copy" && echo 2 && '
        "read go"
    )
    shell = subprocess.Popen(
        ["unshare", "-m", "sh", "-c", script, "sh", str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
    )
    child = None
    try:
        if shell.stdout.readline() != "1\n":
            pytest.skip(
                "cannot mount a loop device in a mount namespace: " + shell.stderr.read().strip()
            )
        child = attached("cachesnoop", "-j")
        shell.stdin.write("go\n")
        shell.stdin.flush()
        assert shell.stdout.readline() == "2\n"
        time.sleep(0.5)
        records = [json.loads(line) for line in stop(child).splitlines()]
    finally:
        shell.kill()
        shell.wait()
        if child is not None and child.poll() is None:
            child.kill()
    # cat has ended before its namespace is looked at, or has not: its own path, or the file
    # system's.
    names = {r["file"] for r in records if r.get("file") and r["file"].endswith("/inner")}
    assert names and all(
        n == str(tmp_path / "mount/inner") or re.fullmatch(r"\[\d+:\d+\]/inner", n) for n in names
    )


def attempt(*command):
    """Run a command that may not be there or not work here: then the test is skipped."""
    try:
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    except FileNotFoundError:
        pytest.skip(command[0] + " is not installed")
    if done.returncode:
        pytest.skip(f"{' '.join(command[:3])}: {done.stderr.strip()}")


def test_names_on_overlay_and_on_a_btrfs_subvolume(tmp_path):
    """Where st_dev is not the device that holds the pages."""
    for name in "low", "up", "work", "mount":
        (tmp_path / name).mkdir()
    low, point = make(tmp_path / "low/file"), str(tmp_path / "mount")
    evict(low)
    attempt(
        "mount",
        "-t",
        "overlay",
        "overlay",
        "-o",
        f"lowerdir={tmp_path / 'low'},upperdir={tmp_path / 'up'},workdir={tmp_path / 'work'}",
        point,
    )
    try:
        found = traced(lambda: read(point + "/file", 1 << 17))
    finally:
        subprocess.check_call(["umount", point])
    assert pages(found, low) == set(range(PAGES))  # the file of the layer holds them
    image = str(tmp_path / "image")
    with open(image, "wb") as f:
        f.truncate(400 << 20)
    attempt("mkfs.btrfs", "-q", image)
    attempt("mount", "-o", "loop", image, point)
    try:
        attempt("btrfs", "subvolume", "create", point + "/sub")
        make(point + "/sub/file")
    finally:
        subprocess.check_call(["umount", point])
    attempt("mount", "-o", "loop,subvol=sub", image, point)
    try:
        path = point + "/file"
        evict(path)
        found = traced(lambda: read(path, 1 << 17))
        assert pages(found, path) == set(range(PAGES))
        device = os.stat(path).st_dev
        shown = {r["dev"] for r in found if r.get("file") == path}
        assert shown and f"{os.major(device)}:{os.minor(device)}" not in shown
    finally:
        subprocess.check_call(["umount", point])


def test_the_whole_of_a_large_read(tmp_path):
    """1 GiB: no page is lost."""
    path, size = str(tmp_path / "large"), (1 << 30) // min(SLOW, 16)
    with open(path, "wb") as f:
        f.truncate(size)  # holes are added to the cache like any page
    found = traced(lambda: read(path, 1 << 20))
    lost = sum(r["pages_lost"] for r in found if r["record"] == "lost")
    # Memory may be short, and a page that was read ahead dropped and added again.
    assert lost == 0 and pages(found, path, once=False) == set(range(size // PAGE))


def test_losses_are_reported(tmp_path):
    """More single pages at once than the buffer holds: shown and lost are all of them."""
    path, count = str(tmp_path / "random"), 120000
    if SLOW > 1:
        pytest.skip("120,000 single reads take too long under software emulation")
    with open(path, "wb") as f:
        f.truncate(2 * count * PAGE)
    child = attached("cachesnoop", "-j", "-p", str(os.getpid()))
    os.kill(child.pid, signal.SIGSTOP)
    fd = os.open(path, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
    for page in range(count):
        os.pread(fd, 1, 2 * page * PAGE)
    os.close(fd)
    os.kill(child.pid, signal.SIGCONT)
    records = [json.loads(line) for line in stop(child).splitlines()]
    lost = sum(r["pages_lost"] for r in records if r["record"] == "lost")
    assert lost > 0 and len(pages(records, path)) + lost == count


STORMS = {"text": (), "json": ("-j",), "evictions": ("-e",), "summary": ("--summary",)}


@needs_quiet_machine
@pytest.mark.parametrize("args", STORMS.values(), ids=STORMS)
def test_100000_events_a_second_are_all_shown(tmp_path, args):
    """Pages that are no neighbours, each a line of its own."""
    if SLOW > 1:
        pytest.skip("software emulation does not reach this rate")
    result = storm.cachesnoop(str(tmp_path), 120000, 100000, *args)
    assert (result.shown, result.lost) == (120000, 0)


@pytest.mark.parametrize("args", STORMS.values(), ids=STORMS)
def test_beyond_its_rate_shown_and_lost_are_all(tmp_path, args):
    if SLOW > 1:
        pytest.skip("software emulation does not reach this rate")
    result = storm.cachesnoop(str(tmp_path), 600000, 300000, *args)
    print(f"{result.shown} shown, {result.lost} lost")
    assert result.all and result.shown >= 95000


@needs_quiet_machine
@pytest.mark.parametrize("args", ((), ("1",)), ids=("one report", "every second"))
def test_summary_of_50000_files_has_each(tmp_path, args):
    if SLOW > 1:
        pytest.skip("software emulation does not reach this rate")
    result = storm.cachesnoop(str(tmp_path), 50000, 15000, "--summary", *args, files=True)
    assert (result.shown, result.lost, result.unnamed) == (50000, 0, 0)


def test_interval_and_count(tmp_path):
    """`cachesnoop 1 3` ends after three seconds; its totals are those of its lines."""
    start = time.monotonic()
    result = run("cachesnoop", "-je", "1", "3")
    seconds = time.monotonic() - start
    assert result.returncode == 0 and 3 <= seconds < 3 + 3 * SLOW
    records = [json.loads(line) for line in result.stdout.splitlines()]
    totals = [r for r in records if r["record"] == "total"]
    assert len(totals) == 3 and records[-1] is totals[-1]
    assert sum(r["seconds"] for r in totals) == pytest.approx(3, abs=0.5 * SLOW)
    for event, key in ("add", "added_pages"), ("evict", "evicted_pages"):
        events = [r["pages"] for r in records if r.get("event") == event]
        assert sum(events) == sum(r[key] for r in totals)


def test_text_and_summary(tmp_path):
    path = make(tmp_path / "file")
    evict(path)
    child = attached("cachesnoop", "-e", "-p", str(os.getpid()))
    assert "mm_filemap_delete_from_page_cache" in child.taken
    read(path, 1 << 17)
    evict(path)
    lines = stop(child).splitlines()
    assert lines[0].split() == ["TIME", "COMM", "PID", "EVENT", "DEV", "OFFSET", "PAGES", "FILE"]
    mine = [line for line in lines if line.endswith(" " + path)]
    assert re.match(
        rf"\d\d:\d\d:\d\d\.\d{{3}} \S+ +{os.getpid()} add   \d+:\d+ +0 +\d+ /", mine[0]
    ), mine[0]
    assert any(" evict " in line for line in mine)
    child = attached("cachesnoop", "-e", "--summary", "--top", "1", "-p", str(os.getpid()))
    read(path, 1 << 17)
    evict(path)
    lines = stop(child).splitlines()
    assert lines[0].split() == ["ADDED", "EVICTED", "DEV", "FILE"]
    assert lines[1].split()[:2] == [str(PAGES)] * 2 and lines[1].endswith(path)
    assert re.fullmatch(r"\d+ files, \d+ pages added, \d+ evicted", lines[3])


def test_a_name_is_searched_where_the_kernel_has_none(tmp_path):
    from crisis.memory import file_names

    path = make(tmp_path / "file")
    info = os.stat(path)
    dev = os.major(info.st_dev) << 20 | os.minor(info.st_dev)
    mounts = file_names.Mounts()
    with open(path):
        assert mounts.find_open(os.getpid(), dev, info.st_ino) == path
    assert mounts.find_open(os.getpid(), dev, info.st_ino) is None
    search = file_names.Search(mounts)
    assert search.query(dev, info.st_ino) is None
    search.wait(30)
    found = search.query(dev, info.st_ino)
    if found is None:
        pytest.skip(f"the file system is too large to be searched in {search.SECONDS} s")
    assert os.path.samefile(found, path)


def test_without_root():
    result = as_nobody("cachesnoop", "-d", "1")
    assert result.returncode == 77 and result.stderr.count("\n") == 1 and "CAP_BPF" in result.stderr


def test_exits():
    refuses(
        "cachesnoop",
        (["-p", "x"], ["-d", "0"], ["0"], ["1", "0"], ["--top", "3"], ["--top", "0", "--summary"]),
        "-d",
        "1",
    )
    fails_to_write("cachesnoop", "-d .1", "")


def test_peak_memory():
    run("cachesnoop", "-d", ".01")
    for extra in [], ["--summary"]:
        child = attached("cachesnoop", "-d", "1", "-p", str(os.getpid()), *extra)
        peak = peak_memory(child.pid)
        child.communicate()
        assert peak <= 23 << 20  # 8 MB of them are a ring buffer
