# SPDX-License-Identifier: GPL-2.0-or-later
"""fincore against mincore's word on files whose pages are known.  Needs root."""

import ctypes
import errno
import json
import mmap
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time

import pytest

from crisis.errors import Error
from crisis.kernel import cgroup as cgroups
from crisis.memory.residency import Residency
from crisis.memory.survey import Survey
from crisis.memory.survey_jobs import in_parallel
from crisis.memory.survey_printer import Printer
from helpers import SLOW, as_nobody, load, run, tool
from pagefiles import PAGE, Resident, evict, libc, mincore, mincore_of, mounted, write

HAS_CACHESTAT = Residency().has_cachestat


def records(*arguments, status=0):
    result = run("fincore", "-j", *arguments)
    assert result.returncode == status, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def pages(*arguments):
    return {r["file"]: r["pages"] for r in records(*arguments)}


PATTERNS = {
    "full": (256, 0, range(256)),
    "half": (256, 0, range(128)),
    "alternate": (256, 0, range(0, 256, 2)),
    "nothing": (256, 0, ()),
    "odd size": (77, 1234, (0, 5, 76, 77)),
    "one byte": (0, 1, (0,)),
    "empty": (0, 0, ()),
}


@pytest.mark.guest
@pytest.mark.parametrize("pattern", PATTERNS)
def test_equals_mincore(place, pattern):
    count, tail, resident = PATTERNS[pattern]
    path = write(place + "/file", count, tail)
    with Resident(path, resident) as file:
        vector = file.vector()
        assert vector == bytes(i in resident for i in range(len(vector)))  # the stage is set
        text = run("fincore", "-b", "-n", "-r", "-o", "pages,res,size", path).stdout
        assert text == f"{vector.count(1)} {vector.count(1) * PAGE} {count * PAGE + tail}\n"
        saved = run("pagecache", "save", path).stdout
        assert file.vector() == vector
        rebuilt = bytearray(len(vector))
        for first, length in json.loads(saved)["ranges"] if saved else ():
            rebuilt[first : first + length] = b"\1" * length
        assert rebuilt == vector
        # The other way to measure gives the same.
        other = Residency()
        other.has_cachestat = False
        assert other.measure(file.fd, os.fstat(file.fd), file.size)[:2] == (vector.count(1), None)


def test_agrees_with_util_linux(place):
    theirs = shutil.which("fincore", path="/usr/bin")
    if not theirs:
        pytest.skip("util-linux's fincore is not installed")
    paths = [write(f"{place}/{name.replace(' ', '_')}", *PATTERNS[name][:2]) for name in PATTERNS]
    files = [Resident(path, PATTERNS[name][2]) for path, name in zip(paths, PATTERNS)]
    calls = [
        [],
        ["-n"],
        ["-o", "+SIZE"],
        ["-b"],
        ["-r"],
        ["-n", "-r"],
        ["-J"],
        ["-J", "-b"],
        ["-r", "-o", "FILE,SIZE"],
    ]
    known = subprocess.check_output([theirs, "--help"], universal_newlines=True)
    if "--total" in known:  # 2.42
        calls += [["-c", "-r"], ["-c", "-b"]]
    if "--output-all" in known:  # 2.40
        # Theirs, then PERCENT.
        full = run("fincore", "--output-all", "-r", *paths).stdout.splitlines()
        other = subprocess.check_output([theirs, "--output-all", "-r", *paths], text=True)
        assert [line.rpartition(" ")[0] for line in full] == other.splitlines()
    for options in calls:
        ours = run("fincore", *options, *paths).stdout
        other = subprocess.check_output([theirs, *options, *paths], universal_newlines=True)
        if options == ["-n"]:  # before 2.40, columns have room for the titles that are not printed
            ours, other = ours.split(), other.split()
        assert ours == other
    for file in files:
        file.__exit__()


@pytest.fixture()
def known_files(place):
    """A directory with files of which known pages are in memory: (path, {name: vector})."""
    top, held, truth = place + "/top", [], {}
    os.makedirs(top + "/sub")
    for index, (pattern, (count, tail, resident)) in enumerate(PATTERNS.items()):
        name = ("sub/" if index % 2 else "") + pattern.replace(" ", "_")
        file = Resident(write(f"{top}/{name}", count, tail), resident)
        held.append(file)
        truth[name] = file.vector()
        assert truth[name] == bytes(i in resident for i in range(len(truth[name])))
    yield top, truth
    for file in held:
        file.__exit__()


def share(vectors):
    """(pages in memory, percent or None) of vectors together."""
    inside, pages = sum(vector.count(1) for vector in vectors), sum(map(len, vectors))
    return inside, None if not pages else pytest.approx(100 * inside / pages, abs=1e-6)


RANGES = {  # of bytes: the first page, the page after the last one
    "4k-50k": (4096 // PAGE, -(-50 * 1024 // PAGE)),
    "100k": (0, -(-100 * 1024 // PAGE)),
    "300001-": (300001 // PAGE, None),
    "-": (0, None),
    "0.25m-0.5M": ((1 << 18) // PAGE, (1 << 19) // PAGE),
    "1-2": (0, 1),
}


@pytest.mark.guest
def test_percent(known_files):
    top, truth = known_files
    *files, total = records("-c", top)
    assert {os.path.relpath(r["file"], top): (r["pages"], r["percent"]) for r in files} == {
        name: share([vector]) for name, vector in truth.items()
    }
    (summed,) = records("-s", top)
    for record in total, summed:
        assert (record["pages"], record["percent"]) == share(truth.values())
    lines = run("fincore", "-n", "-r", "-o", "PERCENT,FILE", top).stdout.splitlines()
    texts = {os.path.relpath(name, top): text for text, name in map(str.split, lines)}
    for name, vector in truth.items():
        expected = f"{100 * vector.count(1) / len(vector):.3f}" if vector else "-"
        assert texts[name] == expected


@pytest.mark.guest
@pytest.mark.parametrize("part", RANGES)
@pytest.mark.parametrize("cachestat", [True, False])
def test_a_range(known_files, part, cachestat):
    top, truth = known_files
    first, last = RANGES[part]
    filtered = {} if cachestat else {"preexec_fn": lambda: without_cachestat(errno.ENOSYS)}
    result = run("fincore", "-j", "-c", "--map", "--range", part, top, **filtered)
    *files, total = map(json.loads, result.stdout.splitlines())
    inside = {
        name: vector[first:last]
        for name, vector in truth.items()
        if not first or os.path.getsize(f"{top}/{name}") > first * PAGE
    }
    assert {os.path.relpath(r["file"], top): (r["pages"], r["percent"]) for r in files} == {
        name: share([vector]) for name, vector in inside.items()
    }
    assert (total["pages"], total["percent"]) == share(inside.values())
    left_out = len(truth) - len(inside)
    assert (f"left out: {left_out} file" in result.stderr) == bool(left_out)
    for record in files:
        assert record["size_bytes"] == os.path.getsize(record["file"])
        assert len(record["map"]) <= 32 and ("O" in record["map"] or "o" in record["map"]) == (
            record["pages"] > 0
        )


CHOICES = [  # the same for vmtouch and for ours
    [],
    ["-m", "300k"],
    ["-m", "0"],
    ["-m", "0.5M"],
    ["-I", "*l*"],
    ["-I", "half", "-I", "one*"],
    ["-i", "half"],
    ["-i", "sub"],
    ["-I", "[a-n]*", "-i", "*t*", "-m", "1.5G"],
    ["-f"],
    ["-F"],
]


@pytest.mark.parametrize(
    "options",
    CHOICES + [["-p", part] for part in RANGES] + [["-p", "-50k"], ["-m", "1M", "-p", "8k-"]],
    ids=" ".join,
)
def test_agrees_with_vmtouch(known_files, options):
    if not shutil.which("vmtouch"):
        pytest.skip("vmtouch is not installed")
    top, truth = known_files
    os.symlink("../top", top + "/loop")
    paths = [top] + [f"{top}/{name}" for name in truth if "-p" in options]
    ours = list(options)
    if "-p" in ours:
        at = ours.index("-p")
        ours[at : at + 2] = ["--range=" + ours[at + 1]]
    for path in paths:
        theirs = subprocess.run(["vmtouch", *options, path], capture_output=True, text=True)
        assert theirs.returncode == 0, theirs.stderr
        pattern = r"Resident Pages: (\d+)/(\d+) .*?  ([\d.e+]+%)?$"
        resident, pages, percent = re.search(pattern, theirs.stdout, re.M).groups()
        *_, found = records("-c", *ours, path)
        assert found["pages"] == int(resident)
        if int(pages):
            assert found["percent"] == pytest.approx(100 * int(resident) / int(pages), abs=1e-6)
            assert f"{found['percent']:.3g}%" == percent
        else:
            assert found["percent"] is None


def test_percent_is_a_default_column_on_a_terminal(place):
    path = write(place + "/file", 8)
    with Resident(path, (0, 1)):
        for options, titles in (
            ([], "RES PAGES SIZE PERCENT FILE"),
            (["-o", "+DIRTY"], "RES PAGES SIZE PERCENT FILE DIRTY"),
            (["-r"], "RES PAGES SIZE FILE"),
            (["-o", "FILE"], "FILE"),
        ):
            master, slave = os.openpty()
            try:
                subprocess.check_call([tool("fincore"), *options, path], stdout=slave)
                lines = os.read(master, 10000).decode().splitlines()
            finally:
                os.close(master)
                os.close(slave)
            assert lines[0].split() == titles.split()
            assert "PERCENT" not in titles or lines[1].split()[3] == "25.000"
            piped = run("fincore", *options, path).stdout.splitlines()
            assert piped[0].split() == titles.replace("PERCENT ", "").split()


def test_directories_by_name(place):
    names = [f"{i * 7919 % 1000:03}" for i in range(300)]
    for name in names:
        os.makedirs(f"{place}/{name[0]}/{name[1]}", exist_ok=True)
        for path in f"{place}/{name}.x", f"{place}/{name[0]}/{name[1]}/{name}":
            with open(path, "wb") as f:
                f.write(b"x")
    found = [os.path.relpath(r["file"], place) for r in records("--jobs", "1", place)]
    expected = []
    for directory, below, files in os.walk(place):
        below.sort()
        expected += [os.path.relpath(f"{directory}/{name}", place) for name in sorted(files)]
    assert found == expected and len(found) == 600
    evicted = run("pagecache", "-j", "evict", place).stdout.splitlines()
    assert [os.path.relpath(json.loads(line)["file"], place) for line in evicted] == expected


def test_no_heading_over_no_line(place):
    empty = place + "/empty"
    os.mkdir(empty)
    for options in [], ["-r"], ["-o", "FILE"], ["-s"]:
        assert run("fincore", *options, "/no/such/file").stdout == ""
        assert run("fincore", *options, "-m", "0", write(place + "/file", 1)).stdout == ""
    assert run("fincore", empty).stdout == "" and run("fincore", "-c", empty).stdout != ""


@pytest.mark.guest
def test_sparse_files(place):
    path = place + "/sparse"
    with open(path, "wb") as f:
        f.truncate(1 << 40)
    for page in 0, 1 << 20, (1 << 28) - 1:
        fd = os.open(path, os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
        assert len(os.pread(fd, 1, page * PAGE)) == 1
        os.close(fd)
    if HAS_CACHESTAT:
        assert pages(path) == {path: 3}
        assert (
            run("fincore", "-n", "-r", "-o", "SIZE,RES", path).stdout == f"1T {3 * PAGE >> 10}K\n"
        )
    small = place + "/small"
    with open(small, "wb") as f:
        f.truncate(1000 * PAGE)
    with Resident(small, (3, 500, 999)) as file:
        assert file.vector().count(1) == 3 and pages(small) == {small: 3}


@pytest.mark.guest
def test_a_file_cut_short_has_no_pages_beyond_its_end(place):
    path = write(place + "/file", 512)
    with open(path, "rb+") as f:
        f.read()
        f.truncate(100)
        assert pages(path) == {path: mincore_of(path).count(1)} == {path: 1}


def test_a_file_cut_short_while_it_is_measured(place):
    path = write(place + "/file", 64)
    code = (
        "import os,sys\nfd = os.open(sys.argv[1], os.O_RDWR)\nprint(flush=True)\n"
        f"while True: os.ftruncate(fd, 64 * {PAGE}); os.pwrite(fd, b'x' * {PAGE}, 0); "
        "os.ftruncate(fd, 100)"
    )
    child = subprocess.Popen([sys.executable, "-c", code, path], stdout=subprocess.PIPE)
    try:
        child.stdout.readline()
        deadline = time.monotonic() + 2 * min(SLOW, 5)
        while time.monotonic() < deadline:
            for record in records("--map", path, path, path):
                assert 0 <= record["pages"] * PAGE < record["size_bytes"] + PAGE
            with open(path, "rb") as f:
                residency = Residency()
                residency.has_cachestat = False
                for _ in range(200):
                    assert (
                        0 <= residency.measure(f.fileno(), os.fstat(f.fileno()), 64 * PAGE)[0] <= 64
                    )
    finally:
        child.kill()
        child.wait()


@pytest.mark.guest
def test_tmpfs_and_hugetlbfs():
    with mounted("tmpfs", "none") as point:
        path = write(point + "/file", 100)
        assert pages(path) == {path: 100} == {path: mincore_of(path).count(1)}
        with open(path, "rb+") as f:
            f.truncate(1000 * PAGE)
        assert pages(path) == {path: 100}
    pool = "/proc/sys/vm/nr_hugepages"
    with open(pool) as f:
        before = f.read()
    try:
        with open(pool, "w") as f:
            f.write(str(int(before) + 3))
        with open("/proc/meminfo") as f:
            if int(re.search(r"HugePages_Free: +(\d+)", f.read()).group(1)) < 2:
                pytest.skip("no memory for two huge pages")
        with mounted("hugetlbfs", "none") as point:
            huge = os.stat(point).st_blksize
            fd = os.open(point + "/file", os.O_RDWR | os.O_CREAT)
            os.ftruncate(fd, 8 * huge)
            view = mmap.mmap(fd, 8 * huge, mmap.MAP_SHARED | 0x4000)  # MAP_NORESERVE
            for i in 0, 5:
                view[i * huge] = 1
            # mincore knows them only where they are mapped, which is here.
            vector = ctypes.create_string_buffer(8 * huge // PAGE)
            where = ctypes.addressof(ctypes.c_char.from_buffer(view))
            assert libc.mincore(where, 8 * huge, vector) == 0
            assert vector.raw.count(1) == 2 * huge // PAGE
            (record,) = records(point + "/file", "--output-all", "--map")
            assert record["map"] is None
            assert run("pagecache", "touch", point + "/file").returncode == 1
            assert record["pages"] == vector.raw.count(1) and record["dirty_pages"] is None
            assert record["size_bytes"] == 8 * huge
            os.close(fd)
            del view
    finally:
        with open(pool, "w") as f:
            f.write(before)


@pytest.mark.guest
def test_overlayfs_where_cachestat_would_say_nothing(place):
    for name in "lower", "upper", "work":
        os.mkdir(f"{place}/{name}")
    write(place + "/lower/file", 64)
    with mounted(
        "overlay", "overlay", "lowerdir=%s/lower,upperdir=%s/upper,workdir=%s/work" % ((place,) * 3)
    ) as point:
        with Resident(place + "/lower/file", range(0, 64, 4)) as file:
            (record,) = records(point + "/file", "--output-all", "--map")
            assert record["pages"] == file.vector().count(1) == 16
            assert record["dirty_pages"] is None and record["map"] == "o." * 16
        result = run("fincore", "-C", point + "/file")
        assert result.returncode == (1 if HAS_CACHESTAT else 69)
        assert result.stderr.count("\n") == 1


def test_block_device(place):
    image = place + "/image"
    with open(image, "wb") as f:
        f.truncate(8 << 20)
    result = subprocess.run(
        ["losetup", "-f", "--show", image],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if result.returncode:
        pytest.skip(f"no loop device: {result.stdout.strip()}")
    device = result.stdout.strip()
    try:
        with Resident(device, (0, 7, 100)) as file:
            vector = file.vector()
            (record,) = records(device)
            assert record["pages"] == vector.count(1) and {0, 7, 100} <= {
                i for i, p in enumerate(vector) if p
            }
            assert record["size_bytes"] == 8 << 20
        # Inside a directory no device is opened.
        os.mkdir(place + "/dev")
        os.mknod(place + "/dev/node", 0o600 | 0o060000, os.stat(device).st_rdev)
        assert records(place + "/dev") == []
    finally:
        subprocess.check_call(["losetup", "-d", device])


@pytest.mark.guest
def test_links_pipes_sockets_and_loops(place):
    path = write(place + "/file", 10)
    with Resident(path, range(10)):
        os.symlink("file", place + "/link")
        os.symlink(".", place + "/loop")
        os.symlink("..", place + "/up")
        os.symlink("nowhere", place + "/dangling")
        os.mkfifo(place + "/fifo")
        with socket.socket(socket.AF_UNIX) as s:
            s.bind(place + "/socket")
        assert pages(place + "/link") == {place + "/link": 10}
        assert pages(place) == {path: 10}
        inside = records("-L", place)
        assert len([r for r in inside if r["file"].startswith(place) and r["pages"] == 10]) == 1
        for name, what in ("fifo", "a FIFO"), ("socket", "a socket"), ("dangling", "No such file"):
            result = run("fincore", place + "/" + name)
            assert (
                result.returncode == 1 and what in result.stderr and result.stderr.count("\n") == 1
            )
        result = run("fincore", "/dev/null", path, "/no/such/file")
        assert result.returncode == 1 and result.stdout.split()[-1] == path
        assert (
            result.stderr.count("\n") == 2
            and "failed to open: /no/such/file: No such file" in result.stderr
        )


def test_hostile_names(place):
    names = [
        b"new\nline",
        b"esc\x1b[31m",
        b"caf\xe9",
        b'quote"back\\slash',
        "umläut‮".encode(),
        b" space ",
    ]
    for name in names:
        with open(os.fsencode(place) + b"/" + name, "wb") as f:
            f.write(b"x")
    for arguments in ([], ["-r"], ["-s"], ["-J"], ["--top", "9"]):
        result = run("fincore", *arguments, place)
        assert result.returncode == 0 and not re.search(
            r"[\x00-\x09\x0b-\x1f\x7f\u202e]", result.stdout
        )
        if arguments in ([], ["-r"], ["--top", "9"]):
            assert result.stdout.count("\n") == len(names) + 1
    raw = [line.split(" ")[3] for line in run("fincore", "-r", "-n", place).stdout.splitlines()]
    undone = {
        re.sub(rb"\\x(..)", lambda m: bytes([int(m.group(1), 16)]), line.encode()) for line in raw
    }
    assert undone == {os.fsencode(place) + b"/" + name for name in names}
    assert len(json.loads(run("fincore", "-J", place).stdout)["fincore"]) == len(names)
    missing = run("fincore", place + "/\x1b[31m\nx")
    assert (
        missing.returncode == 1 and missing.stderr.count("\n") == 1 and "\x1b" not in missing.stderr
    )


@pytest.fixture(scope="module")
def tree(disk):
    """3000 files on three levels, 500 second names, and what mincore says of each."""
    top = disk + "/tree"
    for directory in "", "/a", "/a/b", "/c":
        os.makedirs(top + directory)
        for i in range(750):
            with open(f"{top}{directory}/{i}", "wb") as f:
                f.write(b"x" * (i % 3 * PAGE + i % 2))
    for i in range(500):
        os.link(f"{top}/a/{i}", f"{top}/c/link{i}")
    yield top
    shutil.rmtree(top)


def census(top):
    """{inode: (size, pages)} by os.walk and mincore."""
    found = {}
    for directory, _, names in os.walk(top):
        for name in names:
            path = os.path.join(directory, name)
            st = os.stat(path)
            if st.st_ino not in found:
                found[st.st_ino] = st.st_size, mincore_of(path).count(1)
    return found


@pytest.mark.guest
@pytest.mark.parametrize("jobs", ["1", "2", "5"])
def test_a_tree_by_several_processes(tree, jobs):
    for _ in range(20):  # until nothing was trimmed meanwhile
        truth = census(tree)
        found = records("--jobs", jobs, "-c", tree)
        summed, total = records("--jobs", jobs, "-s", "-c", tree)
        if census(tree) == truth:
            break
    else:
        pytest.skip("the page cache does not stay as it is on this machine")
    assert len(found) == 3001 and len({r["file"] for r in found}) == 3001
    assert found[-1]["record"] == "total" and not found[-1]["interrupted"]
    assert all(r["time"] == found[0]["time"] for r in found) and found[0]["time"]
    assert {os.stat(r["file"]).st_ino: (r["size_bytes"], r["pages"]) for r in found[:-1]} == truth
    sums = 3000, sum(size for size, _ in truth.values()), sum(count for _, count in truth.values())
    for record in found[-1], summed, total:
        assert (record["files"], record["size_bytes"], record["pages"]) == sums


def test_options_of_the_walk(tree, place):
    assert len(
        records("--exclude", "link*", "--exclude", "*/a/b", "--exclude", "1*", tree)
    ) == 3 * (750 - 111)
    both = records(tree + "/a/1", tree + "/c/link1", "-c")
    assert [r["file"] for r in both[:2]] == [tree + "/a/1", tree + "/c/link1"]
    assert both[2]["files"] == 1 and both[2]["pages"] == both[0]["pages"]
    with open(place + "/list", "wb") as f:
        f.write(os.fsencode(tree) + b"/1\n" + os.fsencode(tree) + b"/2")
    assert [r["file"] for r in records("--files-from", place + "/list")] == [
        tree + "/1",
        tree + "/2",
    ]
    with open(place + "/list", "wb") as f:
        f.write(b"%s/1\0%s/c\0" % ((os.fsencode(tree),) * 2))
    assert len(records("-0", "--files-from", place + "/list")) == 1251
    os.mkdir(place + "/mount")
    subprocess.check_call(["mount", "-t", "tmpfs", "none", place + "/mount"])
    try:
        write(place + "/mount/file", 1)
        assert len(records(place)) == 2 and len(records("-x", place)) == 1
        assert len(records("-x", place + "/mount")) == 1
    finally:
        subprocess.check_call(["umount", place + "/mount"])


def test_sort_top_and_columns(place):
    sizes = {"a": 5, "b": 50, "c": 20}
    held = [
        Resident(write(f"{place}/{name}", count), range(count)) for name, count in sizes.items()
    ]

    def order(*arguments):
        return [r["file"][-1] for r in records(*arguments, place)]

    assert order("--sort", "res") == ["b", "c", "a"] and order("--top", "2") == ["b", "c"]
    assert order("--sort", "FILE") == ["a", "b", "c"] and order("--sort", "size", "--top", "1") == [
        "b"
    ]
    assert run("fincore", "-o", "+dirty", place).stdout.split("\n")[0].split() == [
        "RES",
        "PAGES",
        "SIZE",
        "FILE",
        "DIRTY",
    ]
    assert run("fincore", "-n", "-o", "FILE", place + "/a").stdout == place + "/a\n"
    for file in held:
        file.__exit__()


def test_a_long_list_keeps_its_columns(tree):
    lines = run("fincore", "--jobs", "1", tree).stdout.splitlines()
    assert len(lines) == 3001 and len({line.index("/") for line in lines[1:]}) == 1
    assert (
        len(
            {
                line.index("/")
                for line in run("fincore", "--jobs", "2", tree).stdout.splitlines()[1:]
            }
        )
        == 1
    )


@pytest.mark.guest
def test_dirty_pages_and_map(place):
    if not HAS_CACHESTAT:
        pytest.skip("dirty pages are known only with cachestat (Linux 6.5)")
    path = write(place + "/file", 64)
    with Resident(path, range(0, 32)):
        fd = os.open(path, os.O_RDWR)
        for _ in range(50):  # until writeback did not come between
            os.pwrite(fd, b"x" * (4 * PAGE), 0)
            (record,) = records("--map", "--output-all", path)
            if record["dirty_pages"] == 4:
                break
        assert (record["dirty_pages"], record["dirty_bytes"]) == (4, 4 * PAGE)
        assert (
            record["map"] == "DD" + "O" * 14 + record["map"][16:] and "O" not in record["map"][16:]
        )
        os.fsync(fd)
        (record,) = records("--map", "--output-all", path)
        assert (
            record["dirty_pages"] == record["writeback_pages"] == 0
            and record["map"][:16] == "O" * 16
        )
        os.close(fd)


@pytest.mark.guest
def test_what_the_kernel_does_not_tell(place):
    path = write(place + "/file", 16)
    with Resident(path, (0,)) as file:
        result = as_nobody("fincore", "-j", "-c", path)
        record, total = map(json.loads, result.stdout.splitlines())
        if record["pages"] is not None and HAS_CACHESTAT:
            # Before 6.13 and its stable updates cachestat reported to everybody, and then it is the
            # truth.
            assert record["pages"] == file.vector().count(1)
        else:
            assert (
                result.returncode == 1
                and result.stderr.count("\n") == 1
                and "1 of 1 files" in result.stderr
            )
            assert (
                record["pages"] is None
                and record["res_bytes"] is None
                and record["size_bytes"] == 16 * PAGE
            )
            assert (total["unknown"], total["files"], total["pages"]) == (1, 1, None)
            with open(place + "/large", "wb") as f:
                f.truncate(1 << 40)
            printed = as_nobody("fincore", "-n", "-r", path, place + "/large").stdout
            assert printed == f"- - 64K {path}\n- - 1T {place}/large\n"
        # mincore calls all of it resident: we must not.
        readable, writable = os.pipe()
        pid = os.fork()
        if not pid:
            try:
                os.setuid(65534)
                residency = Residency()
                residency.has_cachestat = False
                printed = (
                    residency.measure(file.fd, os.fstat(file.fd), file.size),
                    mincore(file.fd, file.size).count(1),
                )
                os.write(writable, json.dumps(printed).encode())
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
        assert json.loads(os.read(readable, 100)) == [None, 16]
        os.close(readable)
        os.close(writable)
    os.chmod(path, 0o600)
    result = as_nobody("fincore", path)
    assert result.returncode == 1 and "Permission denied" in result.stderr
    os.chown(path, 65534, 65534)
    result = as_nobody("fincore", "-n", "-r", path)
    assert result.returncode == 0 and result.stdout.split()[1] == str(mincore_of(path).count(1))


def without_cachestat(code):
    """For a child: system call 451 fails with this errno, as before Linux 6.5 or behind a
    container's filter.
    """
    program = b"".join(
        struct.pack("HBBI", *instruction)
        for instruction in (
            (0x20, 0, 0, 0),
            (0x15, 0, 1, 451),
            (0x06, 0, 0, 0x50000 | code),
            (0x06, 0, 0, 0x7FFF0000),
        )
    )
    buffer = ctypes.create_string_buffer(program)
    filter = ctypes.create_string_buffer(struct.pack("HxxxxxxP", 4, ctypes.addressof(buffer)))
    if libc.prctl(22, 2, filter, 0, 0):  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
        raise OSError(ctypes.get_errno(), "seccomp")


@pytest.mark.guest
@pytest.mark.parametrize("code", [errno.ENOSYS, errno.EPERM])
def test_without_cachestat_mincore_answers(place, code):
    path = write(place + "/file", 256)
    with Resident(path, range(0, 256, 3)) as file:
        result = run(
            "fincore",
            "-j",
            "--map",
            "--output-all",
            "-c",
            path,
            preexec_fn=lambda: without_cachestat(code),
        )
        record, total = map(json.loads, result.stdout.splitlines())
        assert (
            result.returncode == 0
            and record["pages"] == total["pages"] == file.vector().count(1) == 86
        )
        assert (
            record["dirty_pages"] is None
            and total["evicted_bytes"] is None
            and record["map"] == "o" * 32
        )
        forced = run("fincore", "-C", path, preexec_fn=lambda: without_cachestat(code))
        assert forced.returncode == 69 and forced.stdout == "" and forced.stderr.count("\n") == 1


PROCESS = """
import mmap, os, sys
a = open(sys.argv[1], "rb"); m = mmap.mmap(a.fileno(), 0, prot=mmap.PROT_READ); a.close()
b = open(sys.argv[2], "rb"); os.unlink(sys.argv[1]); os.unlink(sys.argv[2])
r, w = os.pipe()
print(flush=True)
sys.stdin.read()
"""


@pytest.mark.guest
def test_files_of_a_process(place):
    paths = [write(f"{place}/{name}", count) for name, count in (("mapped", 20), ("open", 30))]
    held = [Resident(path, range(4 + i)) for i, path in enumerate(paths)]
    child = subprocess.Popen(
        [sys.executable, "-c", PROCESS, *paths], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        child.stdout.readline()
        found = pages("-p", str(child.pid))
        for i, path in enumerate(paths):
            assert found[path + " (deleted)"] == held[i].vector().count(1)
        assert os.path.realpath(sys.executable) in found
        assert not any(name.startswith(("pipe:", "anon_inode", "/dev/null")) for name in found)
    finally:
        child.stdin.close()
        child.wait()
        for file in held:
            file.__exit__()
    result = run("fincore", "-p", str(child.pid))
    assert (
        result.returncode == 1
        and "no such process" in result.stderr
        and result.stderr.count("\n") == 1
    )
    result = as_nobody("fincore", "-p", "1")
    assert result.returncode == 77 and result.stderr.count("\n") == 1


def test_files_of_another_mount_namespace():
    script = (
        "mount -t tmpfs none /mnt && head -c 40960 /dev/zero >/mnt/hidden && exec "
        "7</mnt/hidden && echo && read x"
    )
    child = subprocess.Popen(
        ["unshare", "-m", "sh", "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        if not child.stdout.readline():
            pytest.skip(f"cannot make a mount namespace: {child.stderr.read().decode().strip()}")
        assert not os.path.exists("/mnt/hidden")
        assert pages("-p", str(child.pid))["/mnt/hidden"] == 10 * 4096 // PAGE
    finally:
        child.stdin.close()
        child.wait()
        child.stdout.close()
        child.stderr.close()


@pytest.mark.guest
def test_who_owns_the_pages(place):
    if not os.path.exists("/proc/kpagecgroup"):
        pytest.skip("this kernel has no /proc/kpagecgroup")
    mount = cgroups.controller_mount("memory")
    if mount is None:
        pytest.skip("no memory cgroup is mounted")
    if mount[1] is None:
        with open(mount[0] + "/cgroup.subtree_control", "w") as f:
            f.write("+memory")
    cgroup = mount[0] + f"/fincore-test-{os.getpid()}"
    os.mkdir(cgroup)
    path = write(place + "/file", 64)
    try:
        code = (
            "import os, sys\nopen(sys.argv[2] + '/cgroup.procs', 'w').write(str(os.getpid()))\n"
            "os.posix_fadvise(os.open(sys.argv[1], os.O_RDONLY), 0, 0, os.POSIX_FADV_RANDOM)\n"
            "import mmap\nm = mmap.mmap(os.open(sys.argv[1], os.O_RDONLY), 0, "
            "prot=mmap.PROT_READ)\n"
            f"m.madvise(mmap.MADV_RANDOM)\n[m[i * {PAGE}] for i in range(0, "
            "40)]\nprint(flush=True)\nsys.stdin.read()"
        )
        child = subprocess.Popen(
            [sys.executable, "-c", code, path, cgroup],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        child.stdout.readline()
        vector = mincore_of(path)
        found = records("--cgroup", path)
        child.stdin.close()
        child.wait()
        assert {r["cgroup"]: r["pages"] for r in found} == {
            cgroup[len(mount[0]) :]: vector.count(1)
        }
        assert vector.count(1) == 40 and found[0]["pages_ratio"] == 1 and found[0]["files"] == 1
        text = run("fincore", "--cgroup", path).stdout.splitlines()
        assert text[0].split() == ["RES", "PAGES", "FILES", "%", "CGROUP"]
        result = as_nobody("fincore", "--cgroup", path)
        assert result.returncode == 77 and result.stderr.count("\n") == 1
    finally:
        deadline = time.monotonic() + 10
        while True:
            try:
                os.rmdir(cgroup)
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)


def test_watch_shows_what_changed(place):
    path, still = write(place + "/file", 32), write(place + "/still", 8)
    child = subprocess.Popen(
        [tool("fincore"), "-j", "--watch", ".1", path, still],
        stdout=subprocess.PIPE,
        universal_newlines=True,
    )
    first = [json.loads(child.stdout.readline()) for _ in range(2)]
    assert [r["change_bytes"] for r in first] == [None, None]
    with Resident(path, range(12)):
        grown = json.loads(child.stdout.readline())
        while grown["pages"] < 12:
            grown = json.loads(child.stdout.readline())
        assert (
            grown["file"] == path
            and grown["pages"] == 12
            and 0 < grown["change_bytes"] <= 12 * PAGE
        )
    evict(path)
    changes = [json.loads(child.stdout.readline())]
    while changes[-1]["pages"]:
        changes.append(json.loads(child.stdout.readline()))
    assert sum(r["change_bytes"] for r in changes) == -12 * PAGE
    child.send_signal(signal.SIGINT)
    assert child.stdout.read() == "" and child.wait() == 0
    assert run("fincore", "--watch=.05", "--count", "3", "-c", still).stdout.count("CHANGE") == 3
    with Resident(path, range(4)):
        assert run("fincore", "--watch=.05", "--count", "3", path).stdout.count("CHANGE") == 1
        found = records("--watch=.05", "--count", "2", "-c", path)
    assert [(r["record"], r["pages"], r["change_bytes"]) for r in found] == [
        ("file", 4, None),
        ("total", 4, None),
        ("total", 4, 0),
    ]


@pytest.mark.guest
def test_output_that_fails_or_ends(tree):
    full = open("/dev/full", "w")
    for jobs in "1", "2":
        result = subprocess.run(
            [tool("fincore"), "--jobs", jobs, tree], stdout=full, stderr=subprocess.PIPE
        )
        assert result.returncode == 1 and result.stderr.count(b"\n") == 1
        piped = subprocess.run(
            f"'{tool('fincore')}' --jobs {jobs} '{tree}' | head -1", shell=True, capture_output=True
        )
        assert piped.stdout.count(b"\n") == 1 and piped.stderr == b""
    closed = subprocess.run(f"'{tool('fincore')}' '{tree}' >&-", shell=True, stderr=subprocess.PIPE)
    assert closed.returncode == 1 and closed.stderr.count(b"\n") == 1


def test_a_walk_whose_process_dies_says_so(tree, monkeypatch):
    command = load("fincore")
    args = command.get_parser().parse_args(["-s", tree])
    columns = list(command.DEFAULT)
    found = Survey(args, Printer(args, columns))
    monkeypatch.setattr(
        "crisis.memory.survey_jobs._measure", lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    )
    with pytest.raises(Error, match="was killed"):
        in_parallel(found, args, columns, [(tree, tree)], 2)
