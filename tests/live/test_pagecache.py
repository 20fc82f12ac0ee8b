# SPDX-License-Identifier: GPL-2.0-or-later
"""pagecache: each action is carried out, by mincore's account, or reported not to have been.

Needs root.
"""

import json
import os
import re
import resource
import signal
import subprocess
import sys
import time

import pytest

from crisis.errors import Unavailable
from crisis.memory import page_cache, saved_pages
from crisis.memory.residency import Residency, runs
from helpers import ROOT, SLOW, as_nobody, load, run, tool
from pagefiles import PAGE, Resident, evict, mincore_of, mounted, write


def act(*arguments, status=0):
    result = run("pagecache", "-j", *arguments)
    assert result.returncode == status, result.stderr + result.stdout
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.mark.guest
def test_evict_writes_back_and_drops(place):
    path = place + "/file"
    with open(path, "wb") as f:
        f.write(b"d" * (64 * PAGE))
    (record,) = act("evict", path)
    assert (record["before_pages"], record["after_pages"], record["why"]) == (64, 0, [])
    assert mincore_of(path) == bytes(64)
    with open(path, "rb") as f:
        assert f.read() == b"d" * (64 * PAGE)
    text = run("pagecache", "evict", path)
    assert text.returncode == 0 and text.stdout.split()[:4] == ["BEFORE", "AFTER", "SIZE", "FILE"]
    assert text.stdout.split()[5] == "0B" and mincore_of(path) == bytes(64)


@pytest.mark.guest
def test_evict_names_who_has_the_file_mapped(place):
    path = write(place + "/file", 64)
    with Resident(path, range(0, 64, 2)) as file:
        (record,) = act("evict", path, status=1)
        assert record["after_pages"] == file.vector().count(1) == 32
        assert record["mapped_by"] == [
            {"pid": os.getpid(), "comm": open("/proc/self/comm").read().rstrip("\n")}
        ]
        assert "32 pages stayed" in record["why"][0] and f"({os.getpid()})" in record["why"][0]
        text = run("pagecache", "evict", path)
        assert text.returncode == 1 and text.stderr.count("\n") == 1 and "mapped by" in text.stderr
    assert act("evict", path)[0]["after_pages"] == 0


def test_evict_of_what_lives_in_memory():
    with mounted("tmpfs", "none") as point:
        path = write(point + "/file", 8)
        (record,) = act("evict", path, status=1)
        assert record["after_pages"] == 8 and "no other place" in record["why"][0]


def test_evict_of_what_cannot_be_written_back(place):
    with mounted("tmpfs", "none", "size=4m") as point:
        image = point + "/image"
        with open(image, "wb") as f:
            f.truncate(64 << 20)
        subprocess.check_call(["mkfs.ext4", "-q", "-F", "-O", "^has_journal", image])
        with mounted("ext4", image, "loop") as disk:
            with open(disk + "/file", "wb") as f:
                f.write(b"d" * (16 << 20))  # the tmpfs below has no room for it
            (record,) = act("evict", disk + "/file", status=1)
            assert any("cannot be written back" in reason for reason in record["why"]), record


@pytest.mark.guest
def test_touch_reads_only_what_is_missing(place):
    path = write(place + "/file", 4096)
    with Resident(path, range(2048)) as file:
        child = subprocess.Popen([tool("pagecache"), "-j", "touch", path], stdout=subprocess.PIPE)
        text = child.stdout.read()
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = status
        record = json.loads(text)
        assert status == 0 and record["why"] == [] and record["missing_pages"] == 0
        assert file.vector() == b"\1" * 4096
        assert record["before_pages"] == 2048 and record["after_pages"] == 4096
        # The command itself may have been read from the disk too.
        assert 2048 * PAGE // 512 <= usage.ru_inblock < 3600 * PAGE // 512
        child.stdout.close()
    write(place + "/other", 10, 100)
    os.mkdir(place + "/below")
    write(place + "/below/file", 3)
    found = act("touch", place)
    assert len(found) == 3 and all(r["missing_pages"] == 0 for r in found)
    assert (
        mincore_of(place + "/other") == b"\1" * 11
        and mincore_of(place + "/below/file") == b"\1" * 3
    )


PARTS = {  # of bytes, for 64 pages: the first page, the page after the last one
    "4k-50k": (4096 // PAGE, -(-50 * 1024 // PAGE)),
    "30001": (0, -(-30001 // PAGE)),
    "100k-": (100 * 1024 // PAGE, 64),
}


@pytest.mark.guest
@pytest.mark.parametrize("part", PARTS)
def test_a_range_of_a_file(place, part):
    first, last = PARTS[part]
    path, short = write(place + "/file", 64), write(place + "/short", 0, 10)
    (record,) = act("touch", "-p", part, path)
    assert (record["before_pages"], record["missing_pages"]) == (0, 0)
    assert record["after_pages"] == last - first and record["size_bytes"] == 64 * PAGE
    assert set(mincore_of(path)[first:last]) == {1}
    with Resident(path, range(64)):
        saved = json.loads(run("pagecache", "save", "-p", part, path).stdout)
        assert saved["ranges"] == [[first, last - first]]
    assert act("touch", path)[0]["after_pages"] == 64
    (record,) = act("evict", "-p", part, path)
    assert (record["before_pages"], record["after_pages"]) == (last - first, 0)
    assert mincore_of(path) == bytes(not first <= page < last for page in range(64))
    evict(path)
    child = subprocess.Popen(
        [tool("pagecache"), "-j", "lock", "-p", part, path], stdout=subprocess.PIPE, text=True
    )
    try:
        record = json.loads(child.stdout.readline())
        assert record["after_pages"] == last - first and record["missing_pages"] == 0
        assert locked_bytes(child.pid, path) == (last - first) * PAGE
    finally:
        child.send_signal(signal.SIGINT)
        child.communicate()
    assert child.returncode == 0
    if first:
        result = run("pagecache", "touch", "-p", part, short)
        assert result.returncode == 0 and "left out: 1 file too short" in result.stderr


def test_choices_of_files(place):
    for name, pages in ("a.idx", 4), ("b.idx", 40), ("c.dat", 4):
        write(f"{place}/{name}", pages)
    result = run("pagecache", "-j", "touch", "-I", "*.idx", "-m", "100k", place)
    assert [os.path.basename(json.loads(line)["file"]) for line in result.stdout.splitlines()] == [
        "a.idx"
    ]
    assert result.returncode == 0 and "left out: 1 file larger than 100K" in result.stderr
    assert mincore_of(place + "/a.idx") == b"\1" * 4 and mincore_of(place + "/b.idx") == bytes(40)
    assert mincore_of(place + "/c.dat") == bytes(4)


@pytest.mark.guest
def test_touch_leaves_holes(place):
    path = place + "/sparse"
    size = 1 << (40 if Residency().has_cachestat else 32)  # mincore takes a terabyte's time
    with open(path, "wb") as f:
        f.truncate(size)
        for page in 0, 10, 1 << 19:
            f.seek(page * PAGE)
            f.write(b"data" * (PAGE // 4))
    evict(path)
    (record,) = act("touch", path)
    assert record["why"] == [] and record["missing_pages"] == 0 and 3 <= record["after_pages"] < 200
    assert record["size_bytes"] == size


def test_touch_is_not_misled_by_what_lies_behind_a_range(place):
    """Whether mincore reports the truth is tried on a page beyond the file's end: a GiB beyond a
    range's end there may be data.
    """
    path = place + "/sparse"
    with open(path, "wb") as f:
        f.truncate(3 << 30)
        for offset in 0, PAGE + (1 << 30):
            f.seek(offset)
            f.write(b"data" * (PAGE // 4))
    with Resident(path, [0, 1 + (1 << 30) // PAGE]):
        (record,) = act("touch", path)
    assert record["why"] == [] and record["missing_pages"] == 0


CUTTER = (
    "import os,sys\nfd = os.open(sys.argv[1], os.O_RDWR)\nsize = "
    "os.fstat(fd).st_size\nprint(flush=True)\n"
    "while True:\n    os.ftruncate(fd, 100); os.ftruncate(fd, size); os.pwrite(fd, b'x' * "
    f"{PAGE}, size // 2)"
)


@pytest.mark.guest
@pytest.mark.parametrize("action", ["touch", "evict", "lock"])
def test_a_file_cut_short_meanwhile_kills_nothing(place, action):
    path = write(place + "/file", 1024)
    child = subprocess.Popen([sys.executable, "-c", CUTTER, path], stdout=subprocess.PIPE)
    try:
        child.stdout.readline()
        for _ in range(3 if SLOW > 1 else 8):
            result = subprocess.Popen(
                [tool("pagecache"), "-j", action, path],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            line = result.stdout.readline()
            if action == "lock":
                result.send_signal(signal.SIGINT)
            _, errors = result.communicate(timeout=60 * SLOW)
            assert result.returncode in (0, 1), (result.returncode, line, errors)
            assert line or errors
            assert b"Traceback" not in errors and b"internal" not in errors
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


def test_too_large_is_refused(place, capfd, monkeypatch):
    path = write(place + "/file", 64)
    command = load("pagecache")
    monkeypatch.setattr(page_cache, "_available", lambda: 63 * PAGE)
    for force in False, True:
        args = command.get_parser().parse_args(["-j", "touch", path] + ["--force"] * force)
        command.Act(args).touch()
        record = json.loads(capfd.readouterr().out)
        if force:
            assert record["why"] == [] and mincore_of(path) == b"\1" * 64
        else:
            assert (
                "more than the memory available" in record["why"][0]
                and record["missing_pages"] == 64
            )
            assert mincore_of(path) == bytes(64)
    evict(path)
    args = command.get_parser().parse_args(["-j", "lock", path])
    with pytest.raises(command.Error, match="memory available"):
        command.Act(args).lock()
    with pytest.raises(Unavailable, match="max_map_count"):
        command.Act(args).cache.check_lock(10**8, 1, 1)


def locked_bytes(pid, path):
    found = 0
    with open(f"/proc/{pid}/smaps") as f:
        for part in re.split(r"\n(?=[0-9a-f]+-[0-9a-f]+ )", f.read()):
            if path in part:
                found += int(re.search(r"^Locked: +(\d+) kB", part, re.M).group(1)) << 10
    return found


@pytest.mark.guest
def test_lock_keeps_until_the_end(place):
    paths = [write(place + "/file", 128), write(place + "/other", 10, 5)]
    child = subprocess.Popen(
        [tool("pagecache"), "-j", "lock", *paths], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    found = [json.loads(child.stdout.readline()) for _ in paths]
    assert [(r["after_pages"], r["missing_pages"], r["why"]) for r in found] == [
        (128, 0, []),
        (11, 0, []),
    ]
    assert (
        locked_bytes(child.pid, paths[0]) == 128 * PAGE
        and locked_bytes(child.pid, paths[1]) == 11 * PAGE
    )
    for path in paths:
        evict(path)
        assert set(mincore_of(path)) == {1}
    with open(paths[0], "rb+") as f:
        f.truncate(100)
    time.sleep(0.1)
    assert child.poll() is None
    child.send_signal(signal.SIGTERM)
    assert child.wait() == 0
    child.communicate()
    evict(paths[1])
    assert mincore_of(paths[1]) == bytes(11)


def test_an_interrupted_touch_says_so(place):
    paths = [write(f"{place}/{i}", 4096) for i in range(5)]
    child = subprocess.Popen(
        [tool("pagecache"), "-j", "touch", *paths], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    child.stdout.readline()
    child.send_signal(signal.SIGINT)
    rest, errors = child.communicate(timeout=60 * SLOW)
    if rest.count(b"\n") < 4:
        assert child.returncode == 1 and b"interrupted" in errors


def test_names_to_lock_from_standard_input(place):
    path = write(place + "/file", 8)
    child = subprocess.Popen(
        [tool("pagecache"), "-j", "lock", "-0", "--files-from", "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    child.stdin.write(os.fsencode(path) + b"\0")
    child.stdin.close()
    assert json.loads(child.stdout.readline())["after_pages"] == 8
    child.send_signal(signal.SIGINT)
    assert child.wait() == 0
    child.stdout.close()
    child.stderr.close()


@pytest.mark.guest
def test_without_permission(place):
    path = write(place + "/file", 64)
    result = as_nobody(
        "pagecache",
        "lock",
        path,
        before=lambda: resource.setrlimit(resource.RLIMIT_MEMLOCK, (32 * PAGE, 32 * PAGE)),
    )
    assert (
        result.returncode == 77
        and "RLIMIT_MEMLOCK" in result.stderr
        and result.stderr.count("\n") == 1
    )
    result = as_nobody("pagecache", "-j", "touch", path)
    record = json.loads(result.stdout)
    assert mincore_of(path).count(1) == 64
    if (
        result.returncode
    ):  # 0 where cachestat still reported to everybody and mincore was not needed
        assert record["after_pages"] is None and "not verified" in record["why"][0]
    result = as_nobody("pagecache", "-j", "evict", path)
    assert mincore_of(path).count(1) == 0
    assert result.returncode == 0 or "not verified" in json.loads(result.stdout)["why"][0]
    os.chmod(path, 0o600)
    for action in "touch", "evict", "lock", "save":
        result = as_nobody("pagecache", action, path)
        assert "Permission denied" in result.stderr and result.returncode == 1


@pytest.mark.guest
def test_save_and_restore(place):
    wanted = {
        "alternate": range(0, 300, 2),
        "half": range(150),
        "strange\n\udce9 \x1b": (7, 8, 299),
        "none": (),
    }
    held = {
        name: Resident(write(f"{place}/{name}", 300), resident) for name, resident in wanted.items()
    }
    os.mkfifo(place + "/fifo")
    saved = subprocess.run([tool("pagecache"), "save", place], stdout=subprocess.PIPE).stdout
    vectors = {name: file.vector() for name, file in held.items()}
    for name, file in held.items():
        file.__exit__()
        evict(f"{place}/{name}")
    assert saved.count(b"\n") == 3
    with open(place + "/list.json", "wb") as f:
        f.write(saved)
    found = act("restore", place + "/list.json")
    assert len(found) == 3 and all(r["why"] == [] and r["missing_pages"] == 0 for r in found)
    for name in wanted:
        vector = mincore_of(f"{place}/{name}")
        assert all(now >= then for now, then in zip(vector, vectors[name])), name
    # A file that shrank, one that is gone, one that is a FIFO now.
    with open(place + "/half", "rb+") as f:
        f.truncate(10 * PAGE)
    os.unlink(place + "/alternate")
    os.mkfifo(place + "/alternate")
    result = subprocess.run(
        [tool("pagecache"), "-v", "restore", "-"],
        input=saved,
        capture_output=True,
        timeout=60 * SLOW,
    )
    assert (
        result.returncode == 1
        and b"it is a FIFO" in result.stderr
        and b"has changed" in result.stderr
    )


GOOD = {
    "file": "/etc/passwd",
    "size_bytes": 1,
    "mtime_ns": 1,
    "page_bytes": 4096,
    "ranges": [[0, 1]],
}


@pytest.mark.parametrize(
    "line",
    [
        "x",
        "{}",
        "[]",
        "null",
        "7",
        '"x"',
        '{"file":1}',
        "[" * 200000,
        '{"file":' * 100000,
        "\udcff",
        *(
            json.dumps(dict(GOOD, **wrong))
            for wrong in (
                {"file": ""},
                {"file": 1},
                {"file": "a\0b"},
                {"file": ["/etc/passwd"]},
                {"file": "\ud800"},
                {"size_bytes": "x"},
                {"size_bytes": True},
                {"size_bytes": -1},
                {"size_bytes": 1.5},
                {"size_bytes": 10**30},
                {"mtime_ns": {}},
                {"mtime_ns": None},
                {"mtime_ns": float("nan")},
                {"page_bytes": -1},
                {"page_bytes": True},
                {"page_bytes": 1e12},
                {"page_bytes": 4095},
                {"page_bytes": 1 << 40},
                {"ranges": {}},
                {"ranges": [[-5, 1]]},
                {"ranges": [["a", 1]]},
                {"ranges": [["a", "b"]]},
                {"ranges": [[1]]},
                {"ranges": [[0, 1, 2]]},
                {"ranges": [[0, True]]},
                {"ranges": [[0, 0]]},
                {"ranges": ["ab"]},
                {"ranges": [7]},
                {"ranges": [[1 << 52, 1]]},
                {"ranges": [[0, 1 << 62]]},
            )
        ),
    ],
    ids=lambda line: line[:20] + line[-20:],
)
def test_restore_takes_no_nonsense(tmp_path, line):
    path = tmp_path / "list"
    path.write_bytes(os.fsencode(line) + b"\n")
    result = run("pagecache", "restore", str(path))
    assert result.returncode == 1 and "line 1: not a line of pagecache save: " in result.stderr
    assert (
        result.stderr.count("\n") == 1 and "internal" not in result.stderr and result.stdout == ""
    )


def test_restore_names_the_bad_line_of_a_list(place):
    path = write(place + "/file", 8)
    good = json.dumps(dict(GOOD, file=path, ranges=[[0, 8]]))
    bad = good.replace("4096", '"a"')
    lines = place + "/list"
    with open(lines, "w") as f:
        f.write(f"{good}\n{bad}\n{good}\n")
    result = run("pagecache", "restore", lines)
    assert result.returncode == 1 and "/list, line 2: not a line" in result.stderr
    assert result.stdout.count(path) == 1 and mincore_of(path) == b"\1" * 8


ENDLESS = {
    "an endless line": "/dev/zero",
    "an endless name": "printf '{\"file\":\"'; yes a | tr -d '\\n'",
    "endless ranges": "printf '{\"file\":\"/a\",\"ranges\":['; yes '[1,2],' | tr -d '\\n'",
    "many members": 'python3 -c \'print("{" + ",".join(f"\\"{i}\\":1" for i in range(1500000)) '
    '+ "}")\'',
    "many lists": 'python3 -c \'print("[" + ",".join(["[]"] * 9000000) + "]")\'',
}


@pytest.mark.parametrize("what", ENDLESS)
def test_restore_of_an_endless_list_ends(what):
    """Within 300 MB: a line is read and checked before it is parsed."""
    text = ENDLESS[what]
    command = (
        f"{tool('pagecache')} restore {text}"
        if text.startswith("/")
        else f"({text}) 2>/dev/null | {tool('pagecache')} restore -"
    )
    result = subprocess.run(
        ["bash", "-c", "ulimit -v 300000; " + command], capture_output=True, timeout=60 * SLOW
    )
    assert result.returncode == 1 and result.stdout == b"", result
    assert (
        b"line 1: not a line of pagecache save: it " in result.stderr
        and result.stderr.count(b"\n") == 1
    )


def test_a_file_of_many_ranges_is_saved_in_several_lines(place, capfd, monkeypatch):
    path = write(place + "/file", 64)
    command = load("pagecache")
    monkeypatch.setattr(saved_pages, "_MOST_RANGES", 10)
    with Resident(path, range(0, 64, 2)):
        command.Act(command.get_parser().parse_args(["save", path])).save()
    records = [saved_pages.parse(line.encode()) for line in capfd.readouterr().out.splitlines()]
    assert [len(record.ranges) for record in records] == [10, 10, 10, 2]
    assert [span for record in records for span in record.ranges] == [
        (at * PAGE, (at + 1) * PAGE) for at in range(0, 64, 2)
    ]


def test_a_bar_on_the_terminal(place):
    import pty

    code = (
        "import sys\nsys.path[:0] = sys.argv[1:]\nfrom helpers import load\nbar = "
        "load('pagecache').Progress(True)\n"
        "bar.name = 'na\\x1bme'\nbar.begin(100)\nbar.next = 0\nbar.advance(50)\nbar.clear()"
    )
    master, slave = pty.openpty()
    try:
        subprocess.check_call(
            [sys.executable, "-c", code, ROOT + "/tests", ROOT + "/lib"], stderr=slave
        )
        text = os.read(master, 10000).decode()
    finally:
        os.close(master)
        os.close(slave)
    assert (
        "[###############" in text
        and " 50% 50B of 100B na\\x1bme" in text
        and text.endswith("\r\x1b[K")
    )
    # no bar where nobody looks
    assert run("pagecache", "touch", write(place + "/file", 64)).stderr == ""


def test_older_kernels_are_measured_by_mincore(place):
    path = write(place + "/file", 64)
    with Resident(path, range(16)) as file:
        residency = Residency()
        residency.has_cachestat = False
        assert residency.measure(file.fd, os.fstat(file.fd), file.size) == (
            16,
            None,
            None,
            None,
            None,
        )
        assert runs(bytearray(file.vector()), 0).__next__() == (16, 48)
