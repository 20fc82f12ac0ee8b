#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""irqtime, hardirqs and softirqs against those of libbpf-tools and bcc, interleaved: start, memory,
cost of an interrupt.

Needs root, libbpf-tools and bpftool; bpfcc-tools with kernel headers where
there are any.  A peer that does not run is left out, with a note.  Prints Markdown tables.
"""

import glob
import os
import re
import subprocess
import sys
import time

import harness

OURS = harness.tool("irqtime")
RUNS = 12
FLOOD = (
    "import socket\ns=socket.socket(socket.AF_INET,socket.SOCK_DGRAM)\ns.bind(('127.0.0.1',0))\n"
    "s.connect(s.getsockname())\nfor i in range(100000):\n s.send(b'x')\n s.recv(9)\n"
)
COMMANDS = {
    "ours": [OURS],
    "ours, --source lines": [OURS, "--source", "lines"],
    "ours, -d": [OURS, "-d"],
    "our softirqs": [harness.tool("softirqs")],
    "our hardirqs": [harness.tool("hardirqs")],
    "libbpf-tools softirqs": ["/usr/sbin/softirqs"],
    "libbpf-tools hardirqs": ["/usr/sbin/hardirqs"],
    "bcc softirqs": ["/usr/sbin/softirqs-bpfcc"],
}


def programs_of(pid):
    """The ids of the BPF programs that a process holds, by itself or by links."""
    ids = set()
    for path in glob.glob(f"/proc/{pid}/fdinfo/*"):
        try:
            with open(path) as f:
                ids.update(
                    int(number) for number in re.findall(r"^prog_id:\s*(\d+)", f.read(), re.M)
                )
        except FileNotFoundError:
            pass
    return ids


def per_interrupt(command):
    """Nanoseconds that the programs take for a softirq, both ends of it, while datagrams make
    100000 of NET_RX.  Those for hard interrupts that came meanwhile are in it.
    """
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 20
        while not any(harness.programs()[i].get("run_cnt") for i in programs_of(child.pid)):
            if time.monotonic() > deadline:
                raise RuntimeError(f"{command[0]} attached nothing")
            time.sleep(0.1)
        time.sleep(0.5)
        ids, start = programs_of(child.pid), harness.programs()
        subprocess.check_call(["taskset", "-c", "0", sys.executable, "-c", FLOOD])
        end = harness.programs()
        spent, count = (
            sum(end[i].get(key, 0) - start[i].get(key, 0) for i in ids)
            for key in ("run_time_ns", "run_cnt")
        )
        return 2 * spent / count
    finally:
        child.terminate()
        child.wait()


def main():
    commands = {
        name: command for name, command in COMMANDS.items() if os.access(command[0], os.X_OK)
    }
    base = "libbpf-tools softirqs"
    if base not in commands:
        sys.exit("libbpf-tools is not installed: nothing to compare with")
    print(f"{harness.machine()}, {RUNS} interleaved runs")
    jobs = {
        name: (lambda command=command: harness.run([*command, "1", "1"], 1))
        for name, command in commands.items()
    }
    found = harness.interleaved(jobs, RUNS)
    walls = {name: [run.wall for run in runs] for name, runs in found.items()}
    memory = {name: [run.rss for run in runs] for name, runs in found.items()}
    harness.table("start: whole process less the interval", "ms", walls, base)
    harness.table("peak RSS", "MB", memory, base)
    harness.ratio_row("softirqs: start", base, walls["our softirqs"], walls[base])
    # This load makes none of the interrupts that hardirqs counts.
    spent = {name: [] for name in found if "hardirqs" not in name}
    with harness.bpf_statistics():
        for _ in range(5):
            for name in spent:
                spent[name].append(per_interrupt(commands[name]))
    harness.table("in the kernel, per softirq (two programs)", "ns", spent, base)
    what = "softirqs: cost of a softirq in the kernel"
    harness.ratio_row(what, base, spent["our softirqs"], spent[base])


if __name__ == "__main__":
    main()
