#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""runqlat against its peers in one run, interleaved: start, memory, cost of events and reports.

Needs root, gcc, libbpf-tools, bpftrace, bpfcc-tools, bpftool and linux-perf.  A
peer that is not installed is left out aloud.  Prints a Markdown table.
"""

import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "lib"))
from crisis.bpf import btf, header  # noqa: E402

RUNS = 12
OURS = os.path.join(ROOT, "bin/runqlat")
LAUNCH = (
    "import os,sys\npid=os.posix_spawn(sys.argv[1],sys.argv[1:],dict(os.environ),file_actions="
    "[(os.POSIX_SPAWN_OPEN,fd,'/dev/null',os.O_RDWR,0) for fd in (0,1,2)])\n_,s,u=os.wait4(pid,0)\n"
    "print(s,u.ru_maxrss)"
)


def full_header_tree(directory):
    """What one would write without pruning: the whole of bpftool's dump, for bcc unchanged."""
    dump = subprocess.check_output(
        ["bpftool", "btf", "dump", "file", btf.VMLINUX, "format", "c"], text=True
    )
    dump = re.sub(
        r"#pragma clang attribute.*|#ifndef BPF_NO_PRESERVE_ACCESS_INDEX|#endif", "", dump
    )
    dump = dump.replace("#ifndef __VMLINUX_H__", "").replace("#define __VMLINUX_H__", "")
    prune, header.prune = header.prune, lambda btf, text: "#define _UAPI__LINUX_BPF_H__\n" + dump
    try:
        header.write_tree(directory, open("/usr/sbin/runqlat-bpfcc").read(), None)
    finally:
        header.prune = prune


def timed(command, env=None):
    """(milliseconds beyond the 1 s interval, peak RSS in MB) of one run."""
    begin = time.monotonic()
    out = subprocess.run(
        [sys.executable, "-IS", "-c", LAUNCH, *command],
        stdout=subprocess.PIPE,
        text=True,
        env=dict(os.environ, **(env or {})),
    )
    status, rss = out.stdout.split()
    if int(status):
        raise RuntimeError(f"{command[0]} ended with status {status}")
    return (time.monotonic() - begin - 1) * 1e3, int(rss) / 1024


def programs():
    return {
        p["id"]: p for p in json.loads(subprocess.check_output(["bpftool", "-j", "prog", "show"]))
    }


def event_cost(command, env=None):
    """Nanoseconds an event under `perf bench sched pipe` pinned to one CPU, by the kernel's own
    statistics.
    """
    before = set(programs())
    child = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=dict(os.environ, **(env or {})),
    )
    try:
        deadline = time.monotonic() + 20
        while not any(p.get("run_cnt", 0) > 0 for i, p in programs().items() if i not in before):
            if time.monotonic() > deadline:
                raise RuntimeError(f"{command[0]} attached nothing")
            time.sleep(0.1)
        start = programs()
        subprocess.check_call(
            ["taskset", "-c", "0", "perf", "bench", "sched", "pipe", "-l", "50000"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        end = programs()
        ids = [i for i in end if i not in before and i in start]
        spent = sum(end[i].get("run_time_ns", 0) - start[i].get("run_time_ns", 0) for i in ids)
        count = sum(end[i].get("run_cnt", 0) - start[i].get("run_cnt", 0) for i in ids)
        return spent / count
    finally:
        child.terminate()
        child.wait()


THREADS = r"""
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>
static void *sleeps(void *unused) { usleep(rand() % 500000); for (;;) usleep(500000); }
int main(int argc, char **argv)
{
	pthread_attr_t attr;
	pthread_t thread;
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, 16384);
	for (int i = atoi(argv[1]); i; i--)
		if (pthread_create(&thread, &attr, sleeps, 0)) return 1;
	if (write(1, "x", 1) != 1) return 1;
	return !read(0, &attr, 1);
}
"""


def cpu_share(command, seconds=5):
    """(% of a CPU, peak RSS in MB) of a tool that reports every second, without its start."""
    child = subprocess.Popen([*command, "1"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def cpu_time():
        with open(f"/proc/{child.pid}/schedstat") as f:
            return int(f.read().split()[0])

    try:
        time.sleep(2.5)
        begin, before = time.monotonic(), cpu_time()
        time.sleep(seconds)
        share = (cpu_time() - before) / 1e7 / (time.monotonic() - begin)
        with open(f"/proc/{child.pid}/status") as f:
            return share, int(re.search(r"VmHWM:\s*(\d+)", f.read()).group(1)) / 1024
    finally:
        child.kill()
        child.wait()


def reports(directory, tools, base, rounds=3):
    """What reports per thread cost the tools, of 2,500, 5,000 and 10,000 threads."""
    path = os.path.join(directory, "threads")
    with open(path + ".c", "w") as f:
        f.write(THREADS)
    subprocess.check_call(["gcc", "-O1", "-pthread", "-o", path, path + ".c"])
    for number in 2500, 5000, 10000:
        threads = subprocess.Popen(
            [path, str(number)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        shares, memory = ({name: [] for name in tools} for _ in range(2))
        try:
            assert threads.stdout.read(1) == b"x", "not so many threads"
            for _ in range(rounds):
                for name, command in tools.items():
                    share, megabytes = cpu_share(command)
                    shares[name].append(share)
                    memory[name].append(megabytes)
        finally:
            threads.kill()
            threads.communicate()
        table(f"{number} threads, a report a second", "% of a CPU", shares, base)
        table(f"{number} threads, peak RSS", "MB", memory, base)


def summary(values):
    return f"{statistics.median(values):.1f} ({min(values):.1f}–{max(values):.1f})"


def table(title, unit, rows, base):
    print(f"\n| {title} | median (range) {unit} | ÷ {base} |\n|---|---|---|")
    for name, values in rows.items():
        ratio = statistics.median(values) / statistics.median(rows[base])
        print(f"| {name} | {summary(values)} | {ratio:.2f} |")


def main():
    mounted = not os.path.exists("/sys/kernel/tracing/events")
    if mounted:
        # for bpftrace
        subprocess.check_call(["mount", "-t", "tracefs", "tracefs", "/sys/kernel/tracing"])
    tree = tempfile.mkdtemp()
    try:
        compare(tree)
    finally:
        shutil.rmtree(tree)
        if mounted:
            subprocess.call(["umount", "/sys/kernel/tracing"])


def compare(tree):
    source = {"BCC_KERNEL_SOURCE": tree}
    starts = {
        "ours, warm": ([OURS, "1", "1"], None),
        "ours, cold": ([OURS, "--no-cache", "1", "1"], None),
    }
    costs = {
        "ours": ([OURS], None),
        "ours, --steps 64": ([OURS, "--steps", "64"], None),
        "ours, -c /": ([OURS, "-c", "/"], None),
        "ours, -P": ([OURS, "-P"], None),
        "ours, --top 10": ([OURS, "--top", "10"], None),
    }
    base = None
    if os.access("/usr/sbin/runqlat", os.X_OK):
        base = "libbpf-tools"
        starts[base], costs[base] = (
            (["/usr/sbin/runqlat", "1", "1"], None),
            (["/usr/sbin/runqlat"], None),
        )
        costs["libbpf-tools, -P"] = (["/usr/sbin/runqlat", "-P"], None)
    if os.access("/usr/bin/bpftrace", os.X_OK) and os.path.exists("/usr/sbin/runqlat.bt"):
        # Its include needs kernel headers, which not every machine has; it is for one constant.
        script = re.sub(r"#.*", "", open("/usr/sbin/runqlat.bt").read()).replace(
            "TASK_RUNNING", "0"
        )
        starts["bpftrace"] = (
            ["/usr/bin/bpftrace", "-e", script + "\ninterval:s:1 { exit(); }"],
            None,
        )
        costs["bpftrace"] = ["/usr/bin/bpftrace", "-e", script], None
    if os.access("/usr/sbin/runqlat-bpfcc", os.X_OK):
        full_header_tree(tree)
        starts["bcc, full header"] = ["/usr/sbin/runqlat-bpfcc", "1", "1"], source
        costs["bcc"] = ["/usr/sbin/runqlat-bpfcc"], source
    if base is None:
        sys.exit("libbpf-tools is not installed: nothing to compare with")
    times, memory, spent = ({name: [] for name in what} for what in (starts, starts, costs))
    timed([OURS, "1", "1"])
    for name, (command, env) in list(starts.items()):
        try:
            timed(command, env)
        except RuntimeError as exc:
            print(f"left out: {exc}")
            for what in starts, costs, times, memory, spent:
                what.pop(name, None)
    for _ in range(RUNS):
        for name, (command, env) in starts.items():
            milliseconds, megabytes = timed(command, env)
            times[name].append(milliseconds)
            memory[name].append(megabytes)
    switch = "/proc/sys/kernel/bpf_stats_enabled"
    before = open(switch).read()
    try:
        open(switch, "w").write("1")
        for _ in range(5):
            for name, (command, env) in costs.items():
                spent[name].append(event_cost(command, env))
    finally:
        open(switch, "w").write(before)
    print(f"{os.uname().release}, {os.cpu_count()} CPUs, {RUNS} paired runs")
    table("start: whole process less the interval", "ms", times, base)
    table("peak RSS (cold: of the compiler child)", "MB", memory, base)
    table("in the kernel, per event", "ns", spent, base)
    tools = {"ours, -L": [OURS, "-L"], "ours, -jL": [OURS, "-jL"]}
    tools[base] = ["/usr/sbin/runqlat", "-L"]
    reports(tree, tools, base)


if __name__ == "__main__":
    main()
