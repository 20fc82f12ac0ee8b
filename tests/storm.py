# SPDX-License-Identifier: GPL-2.0-or-later
"""cachesnoop, or bpftrace, while tests/cases/page_storm.py adds pages at a fixed rate."""

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time

from helpers import ROOT, tool

STORM = os.path.join(ROOT, "tests/cases/page_storm.py")


class Result:
    """What a tool made of a storm.

    events: that there were, in `seconds`; shown: pages of the storm in the output; lost: pages that
    the tool reported as lost; cpu: its seconds; peak: its bytes of memory; unnamed: of --summary,
    pages of files without a name.
    """

    def __init__(self, events, seconds):
        self.events, self.seconds = int(events), float(seconds)
        self.shown = self.lost = self.unnamed = self.peak = 0
        self.cpu = 0.0

    @property
    def all(self):
        """Whether each event was shown or reported as lost, and no other."""
        return self.shown + self.lost == self.events


class Storm:
    """The process that makes it, not yet let go."""

    def __init__(self, path, count, rate, mode=""):
        command = [sys.executable, "-I", STORM, path, str(count), str(rate)]
        self.process = subprocess.Popen(
            command + ([mode] if mode else []),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            universal_newlines=True,
        )
        assert self.process.stdout.readline() == "ready\n"
        self.pid = self.process.pid

    def run(self):
        """Let it go: the Result without the tool's part."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return Result(*self.process.stdout.readline().split())

    def end(self):
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()


def measured(storm, command, marker, path):
    """The Result of a tool that has attached once `marker` is on its standard error; its output is
    left in the file at `path`, and what else was on standard error in `err`.
    """
    errors = path + ".err"
    with open(path, "wb") as out, open(errors, "wb") as err:
        child = subprocess.Popen(command, stdout=out, stderr=err, stdin=subprocess.DEVNULL)
    try:
        while True:
            with open(errors, errors="replace") as f:
                text = f.read()
            with open(path, errors="replace") as f:
                text += f.read(4096)
            if marker in text:
                break
            assert child.poll() is None, text
            time.sleep(0.05)
        before = cpu(child.pid)
        result = storm.run()
        time.sleep(0.1)
        child.send_signal(signal.SIGINT)
        usage = _ended(child)
    finally:
        storm.end()
        if child.returncode is None:
            child.kill()
            child.wait()
    with open(errors, errors="replace") as f:
        result.err = f.read()
    assert child.returncode == 0, result.err
    result.cpu, result.peak = usage.ru_utime + usage.ru_stime - before, usage.ru_maxrss << 10
    return result


def _ended(child):
    """The resources that a child has used that is about to end."""
    deadline = time.monotonic() + 60
    while True:
        pid, status, usage = os.wait4(child.pid, os.WNOHANG)
        if pid:
            child.returncode = os.waitstatus_to_exitcode(status)
            return usage
        assert time.monotonic() < deadline, f"{child.args[0]} does not end"
        time.sleep(0.01)


def cpu(pid):
    """Seconds of CPU time that a process has used."""
    with open(f"/proc/{pid}/stat") as f:
        fields = f.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def cachesnoop(directory, count, rate, *args, files=False):
    """The Result of cachesnoop with these arguments; files: each page is one of a file of its own,
    in the subdirectory `files`, which the next storm finds again.
    """
    name = os.path.join(directory, "files" if files else "sparse")
    if files:
        os.makedirs(name, exist_ok=True)
    storm = Storm(name, count, rate, "files" if files else "evict" if "-e" in args else "")
    with tempfile.TemporaryDirectory(dir=directory) as scratch:
        out = os.path.join(scratch, "out")
        command = [tool("cachesnoop"), "-v", "-p", str(storm.pid), *args]
        result = measured(storm, command, "attached to", out)
        with open(out) as f:
            (_count_json if "-j" in args else _count_text)(result, f, name, args)
    if "-j" not in args:
        result.lost = sum(map(int, re.findall(r"(\d+) pages in them", result.err)))
    if not files:
        os.unlink(name)
    return result


def _count_text(result, lines, name, args):
    for line in lines:
        if "--summary" in args:
            found = re.match(r" *(\d+) +(\d+ )? *\d+:\d+ ", line)
            pages = sum(int(cell) for cell in found.groups() if cell) if found else 0
        else:
            found = re.search(r" (\d+) [/[]", line)
            pages = int(found.group(1)) if found else 0
        if name in line:
            result.shown += pages
        else:
            result.unnamed += pages


def _count_json(result, lines, name, args):
    for record in map(json.loads, lines):
        if record["record"] in ("lost", "total"):
            result.lost += record.get("lost", record)["pages_lost"]
            continue
        pages = record.get("pages", 0) + record.get("added_pages", 0)
        pages += record.get("evicted_pages") or 0
        if (record["file"] or "").startswith(name):
            result.shown += pages
        else:
            result.unnamed += pages


def bpftrace(directory, count, rate):
    """The Result of a bpftrace program that prints the same."""
    name = os.path.join(directory, "sparse")
    storm = Storm(name, count, rate)
    program = (
        f"tracepoint:filemap:mm_filemap_add_to_page_cache /pid == {storm.pid}/ "
        '{ printf("%s %s %d %d:%d %llu %llu\\n", strftime("%H:%M:%S", nsecs), comm, pid, '
        "args->s_dev >> 20, args->s_dev & 0xfffff, args->index, args->i_ino); }"
    )
    with tempfile.TemporaryDirectory(dir=directory) as scratch:
        out = os.path.join(scratch, "out")
        result = measured(storm, ["bpftrace", "-e", program], "Attaching", out)
        # Line by line: the peak memory of a child begins with ours.
        with open(out) as f:
            for line in itertools.chain(f, result.err.splitlines()):
                result.shown += bool(re.match(r"\d\d:\d\d:\d\d python", line))
                result.lost += sum(map(int, re.findall(r"Lost (\d+) events", line)))
    os.unlink(name)
    return result
