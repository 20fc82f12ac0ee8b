# SPDX-License-Identifier: GPL-2.0-or-later
from types import SimpleNamespace

import pytest

from crisis.memory import PAGE, oom_kill
from crisis.memory.oom_log import Log
from helpers import load, run

oomkill = load("oomkill")

# As Linux 6.18 writes it, shortened.
REPORT = """\
needy invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=-1000
CPU: 1 UID: 0 PID: 88 Comm: needy
Call Trace:
memory: usage 20480kB, limit 20480kB, failcnt 114
memory+swap: usage 20480kB, limit 9007199254740988kB, failcnt 0
Memory cgroup stats for /oomt:
[  29432]     0 29432    20523     6706     5056     1650         0   106496        0 python3
oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,oom_memcg=/oomt,\
task_memcg=/oomt/sub,task=python3,pid=29432,uid=0
Memory cgroup out of memory: Killed process 29432 (python3) total-vm:82092kB, \
anon-rss:20224kB, file-rss:6600kB, shmem-rss:0kB, UID:0 pgtables:104kB oom_score_adj:0"""


def fed(text):
    log = Log()
    for line in text.splitlines():
        log.feed(line)
    return log


@pytest.mark.parametrize(
    "arguments", [["-d", "0"], ["-n", "0"], ["0"], ["1", "0"], ["--source", "x"], ["--past", "-K"]]
)
def test_usage_errors(arguments):
    result = run("oomkill", *arguments)
    assert result.returncode == 2 and result.stdout == "" and result.stderr.count("\n") == 1


def test_a_report_of_the_kernel():
    entry = fed(REPORT).victims[29432]
    assert (entry.comm, entry.kb, entry.uid, entry.pgtables, entry.oom_score_adj) == (
        "python3",
        [82092, 20224, 6600, 0],
        0,
        104 << 10,
        0,
    )
    assert (entry.limit, entry.limit_cgroup, entry.limit_bytes, entry.usage_bytes) == (
        "memcg",
        "/oomt",
        20480 << 10,
        20480 << 10,
    )
    assert (entry.cgroup, entry.gfp, entry.order) == ("/oomt/sub", 0xCC0, 0)


def test_a_global_report_has_no_limit():
    text = REPORT.replace("CONSTRAINT_MEMCG", "CONSTRAINT_NONE").replace(
        "oom_memcg=/oomt,", "global_oom,"
    )
    entry = fed(text).victims[29432]
    assert (entry.limit, entry.limit_cgroup, entry.limit_bytes, entry.cgroup) == (
        "global",
        None,
        None,
        "/oomt/sub",
    )


def test_a_kill_without_its_report_takes_none_of_another():
    last = REPORT.splitlines()[-1].replace("29432", "77")
    log = fed(REPORT + "\n" + last)
    assert log.victims[77].limit is None and log.victims[77].kb == [82092, 20224, 6600, 0]


def test_a_group_shares_its_report():
    lines = REPORT.splitlines()
    log = fed(
        "\n".join(
            lines
            + [
                "Tasks in /oomt are going to be killed due to memory.oom.group set",
                lines[-1].replace("29432", "77"),
            ]
        )
    )
    assert log.victims[77].limit == "memcg" and log.victims[77].limit_cgroup == "/oomt"
    assert log.victims[29432].cgroup == "/oomt/sub" and log.victims[77].cgroup is None


GROUP = "Tasks in /oomt are going to be killed due to memory.oom.group set"


def test_the_kill_after_a_group_takes_none_of_its_report():
    lines, log = REPORT.splitlines(), Log()
    last = lines[-1]
    for text in [*lines, GROUP, last.replace("29432", "77")]:
        log.feed(text, 5000000)
    log.feed(last.replace("29432", "78"), 6500000)  # too late for one of the group
    assert log.victims[77].limit == "memcg" and log.victims[78].limit is None
    log.feed(last.replace("29432", "79"), 6500000)
    assert log.victims[79].limit is None
    for text in lines:
        log.feed(text, 7000000)
    log.feed(last.replace("29432", "80"), 7000000)  # its report was left out,
    log.feed(GROUP, 7000000)  # and it has a group
    log.feed(last.replace("29432", "81"), 7000000)
    assert log.victims[80].limit is None and log.victims[81].limit is None
    for text in [*lines, GROUP]:
        log.feed(text, 8000000)
    log.feed(last.replace("Memory cgroup out", "Out").replace("29432", "82"), 8000000)
    assert log.victims[82].limit is None  # of another shortage


def test_who_needed_the_memory():
    text = REPORT.replace("PID: 88 Comm", "PID: 99 Comm").replace("CPU: 1 UID: 0 PID", "CPU: 1 PID")
    for report, tid in (REPORT, 88), (text, 99):
        entry = fed(report).victims[29432]
        assert (entry.by_tid, entry.by_comm, entry.gfp_flags) == (tid, "needy", "GFP_KERNEL")


def test_a_report_whose_beginning_is_lost():
    entry = fed("\n".join(REPORT.splitlines()[-2:])).victims[29432]
    assert (entry.limit, entry.limit_cgroup, entry.cgroup) == ("memcg", "/oomt", "/oomt/sub")
    assert entry.by_tid is None and entry.limit_bytes is None and entry.gfp is None


def test_pages_that_the_limit_covers():
    """totalpages of struct oom_control, as constrained_alloc() computes it."""

    def domain(text):
        return fed(text).victims[29432].domain

    swap = "memory+swap: usage 20480kB, limit 9007199254740988kB"
    assert domain(REPORT) is None  # depends on the machine's swap
    assert domain(REPORT.replace(swap, "swap: usage 0kB, limit 0kB")) == 20480 * 1024 // PAGE
    assert domain(REPORT.replace(swap, "swap: usage 0kB, limit 4kB")) is None
    limited = REPORT.replace(swap, "memory+swap: usage 20480kB, limit 20480kB")
    assert domain(limited) == 20480 * 1024 // PAGE
    lines = REPORT.replace("CONSTRAINT_MEMCG", "CONSTRAINT_NONE").splitlines()
    memory = ["Total swap = 400kB", "1000 pages RAM", "0 pages HighMem/MovableOnly"]
    memory.append("64 pages reserved")
    whole = "\n".join([*lines[:3], *memory, *lines[6:]])
    assert domain(whole) == 1000 - 64 + 400 * 1024 // PAGE
    assert domain(whole.replace("CONSTRAINT_NONE", "CONSTRAINT_CPUSET")) is None


@pytest.mark.parametrize(
    "logged, comm",
    [
        (") total-vm:1kB", ") total-vm:1kB"),
        ("x,pid=1,uid=2", "x,pid=1,uid=2"),
        ("a) (b", "a) (b"),
        # /dev/kmsg has each byte that is not printable ASCII, and the backslash, as \xNN.
        (r"\x1b[31m\x0a", "\x1b[31m\n"),
        (r"\x5cx41\xc3\xa4\xff", "\\x41\u00e4\udcff"),
    ],
)
def test_hostile_names_do_not_mislead(logged, comm):
    entry = fed(REPORT.replace("python3", logged)).victims[29432]
    assert entry.comm == comm and entry.kb[1] == 20224 and entry.limit_cgroup == "/oomt"


def test_what_is_unknown_is_a_dash():
    class Names:
        def gfp(self, flags):
            return None

        def stack(self, addresses):
            return []

    unknown = dict.fromkeys(
        ("anon", "file", "shmem", "swap", "total_vm", "pgtables"), oom_kill.UNKNOWN
    )
    event = SimpleNamespace(
        ts=1,
        tgid=10,
        tid=10,
        by_tgid=20,
        by_tid=20,
        by_comm=b"by",
        cgroup=0,
        flags=0,
        stack_size=0,
        stack=(),
        limit_flags=0,
        **unknown,
    )
    kill = oom_kill.Kill.of_event(event, {})
    text = oomkill.render_text(kill, "0 0 0 1/1 1", Names())
    assert text[9:].splitlines() == [
        'Triggered by PID 20 ("by"), OOM kill of PID 10 (-), - pages, loadavg: 0 0 0 1/1 1',
        "    RSS - kB: anon -, file -, shmem -",
        "    swap - kB, page tables - kB, total VM - kB",
        "    limit: -",
        "    victim in -; UID -, oom_score_adj -",
        "    order -, -",
    ]
    kill.learn(fed(REPORT).victims[29432])
    assert kill.comm == "python3" and kill.anon == 20224 * 1024 // PAGE and kill.limit == "memcg"


def test_paths():
    def path(*names, levels=None):
        return oom_kill.cgroup_path(
            len(names) if levels is None else levels,
            b"".join(n.ljust(oom_kill.NAME, b"\0") for n in names).ljust(
                oom_kill.LEVELS * oom_kill.NAME, b"\0"
            ),
        )

    assert path() == "/" and path(b"sub", b"oomt") == "/oomt/sub"
    assert path(*[b"x"] * 12, levels=13) == "..." + "/x" * 12


def test_in_cgroup(monkeypatch):
    monkeypatch.setattr(
        oom_kill.cgroup, "controller_mount", lambda name: ("/sys/fs/cgroup/m", None)
    )

    def inside(place, path, limit=None):
        kill = oom_kill.Kill()
        kill.cgroup, kill.limit_cgroup = place, limit
        return oom_kill.in_cgroup(kill, path)

    for path in "db.slice", "/db.slice", "/db.slice/", "/sys/fs/cgroup/m/db.slice":
        assert inside("/db.slice", path) and inside("/db.slice/a", path)
        assert not inside("/db.slice2", path) and not inside("/", path) and not inside(None, path)
    for path in "/", "/sys/fs/cgroup/m", "/sys/fs/cgroup/m/":
        assert inside("/", path) and inside("/db.slice/a", path)
    assert inside(None, "/a", "/a/b") and not inside(None, "/a/b", "/a")


def test_fits_80_columns():
    """But for bcc's own line: victims of terabytes."""
    kill = oom_kill.Kill()
    kill.tgid, kill.pgtables, kill.uid, kill.oom_score_adj = 4194304, 1 << 34, 4294967294, -1000
    kill.anon = kill.file = kill.shmem = kill.swap = kill.total_vm = 1 << 30
    kill.limit, kill.limit_cgroup, kill.cgroup = "memcg", "/db.slice", "/db.slice/pg.service"
    kill.order, kill.gfp_flags = 10, "GFP_HIGHUSER_MOVABLE|__GFP_COMP|__GFP_ZERO"
    kill.limit_bytes = kill.usage_bytes = 1 << 42
    lines = oomkill.render_text(kill, "0 0 0 1/1 1", None).splitlines()
    assert max(map(len, lines[1:])) <= 80 and len(lines) == 6
