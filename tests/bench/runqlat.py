#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""runqlat against its peers in one run, interleaved: start, memory, cost of events and reports.

Needs root, gcc, libbpf-tools, bpftrace, bpfcc-tools, bpftool and linux-perf.  A
peer that is not installed is left out, with a note.  Prints a Markdown table.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time

import harness

RUNS = 20
OURS = harness.tool("runqlat")
LIBBPF, BCC, BPFTRACE = "/usr/sbin/runqlat", "/usr/sbin/runqlat-bpfcc", "/usr/sbin/runqlat.bt"


def event_cost(command, env=None):
    """Nanoseconds an event under `perf bench sched pipe` pinned to one CPU, by the kernel's own
    statistics.
    """
    before = set(harness.programs())
    child = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=dict(os.environ, **(env or {})),
    )
    try:
        deadline = time.monotonic() + 20
        while not any(
            p.get("run_cnt", 0) > 0 for i, p in harness.programs().items() if i not in before
        ):
            if time.monotonic() > deadline:
                raise RuntimeError(f"{command[0]} attached nothing")
            time.sleep(0.1)
        start = harness.programs()
        subprocess.check_call(
            ["taskset", "-c", "0", "perf", "bench", "sched", "pipe", "-l", "50000"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        end = harness.programs()
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


def reports(directory, tools, base, rounds=3, ratio=True):
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
                    share, megabytes = harness.share_of_cpu([*command, "1"], 5)
                    shares[name].append(share)
                    memory[name].append(megabytes)
        finally:
            threads.kill()
            threads.communicate()
        harness.table(f"{number} threads, a report a second", "% of a CPU", shares, base)
        harness.table(f"{number} threads, peak RSS", "MB", memory, base)
        if ratio and number == 5000:
            what = "runqlat -L: CPU time with 5,000 threads"
            harness.ratio_row(what, base, shares["ours, -L"], shares[base], "1.5")


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
    if not os.access(LIBBPF, os.X_OK):
        sys.exit("libbpf-tools is not installed: nothing to compare with")
    base, none = "libbpf-tools", {}
    starts = {"ours, warm": ([OURS, "1", "1"], none), base: ([LIBBPF, "1", "1"], none)}
    costs = {
        "ours": ([OURS], none),
        "ours, --steps 64": ([OURS, "--steps", "64"], none),
        "ours, -c /": ([OURS, "-c", "/"], none),
        "ours, -P": ([OURS, "-P"], none),
        "ours, --top 10": ([OURS, "--top", "10"], none),
        base: ([LIBBPF], none),
        "libbpf-tools, -P": ([LIBBPF, "-P"], none),
    }
    if os.access("/usr/bin/bpftrace", os.X_OK) and os.path.exists(BPFTRACE):
        # Its include needs kernel headers, which not every machine has; it is for one constant.
        with open(BPFTRACE) as f:
            script = re.sub(r"#.*", "", f.read()).replace("TASK_RUNNING", "0")
        once = script + "\ninterval:s:1 { exit(); }"
        starts["bpftrace"] = ["/usr/bin/bpftrace", "-e", once], none
        costs["bpftrace"] = ["/usr/bin/bpftrace", "-e", script], none
    if os.access(BCC, os.X_OK):
        source = harness.bcc_headers(tree, BCC)
        starts["bcc, full header"] = [BCC, "1", "1"], source
        costs["bcc"] = [BCC], source
    jobs = {
        name: (lambda command=command, env=env: harness.run(command, 1, env))
        for name, (command, env) in starts.items()
    }
    print(f"{harness.machine()}, {RUNS} interleaved runs")
    found = harness.interleaved(jobs, RUNS)
    walls = {name: [run.wall for run in runs] for name, runs in found.items()}
    memory = {name: [run.rss for run in runs] for name, runs in found.items()}
    harness.table("start: whole process less the interval", "ms", walls, base)
    harness.table("peak RSS", "MB", memory, base)
    harness.ratio_row("runqlat: start", base, walls["ours, warm"], walls[base], "1")
    harness.ratio_row("runqlat: memory", base, memory["ours, warm"], memory[base])
    spent = {name: [] for name in costs if name in found or name not in starts}
    with harness.bpf_statistics():
        for _ in range(5):
            for name in spent:
                spent[name].append(event_cost(*costs[name]))
    harness.table("in the kernel, per event", "ns", spent, base)
    what = "runqlat: cost of an event in the kernel"
    harness.ratio_row(what, base, spent["ours"], spent[base], "0.4")
    tools = {"ours, -L": [OURS, "-L"], "ours, -jL": [OURS, "-jL"], base: [LIBBPF, "-L"]}
    reports(tree, tools, base)


if __name__ == "__main__":
    main()
