# SPDX-License-Identifier: GPL-2.0-or-later
"""What a pair of malloc and free costs while memleak traces it, beside bcc's and libbpf-tools'
memleak.

Needs gcc.  libbpf-tools' memleak is taken from $LIBBPF_MEMLEAK or /usr/sbin/memleak.
Each round runs every candidate once, so that the machine's mood is shared.
"""

import os
import shutil
import statistics
import subprocess
import tempfile
import time

import harness

ROUNDS = 5
PAIRS = 30000
PROGRAM = r"""
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>
static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1e9 + t.tv_nsec;
}
__attribute__((noinline)) static void *one(void) { return malloc(64); }
__attribute__((noinline)) static void *two(void) { return one(); }
__attribute__((noinline)) static void *three(void) { return two(); }
int main(int argc, char **argv)
{
	char c;
	long pairs = atol(argv[1]);
	for (;;) {
		if (read(0, &c, 1) != 1) return 0;
		double begin = now();
		for (long i = 0; i < pairs; i++) free(three());
		printf("%.1f\n", (now() - begin) / pairs);
		fflush(stdout);
	}
}
"""
OURS = harness.tool("memleak")


class Loop:
    """The program, one per candidate, so that no probe of another is left in it."""

    def __init__(self, path):
        self.child = subprocess.Popen(
            [path, str(PAIRS)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def cost(self):
        self.child.stdin.write("x")
        self.child.stdin.flush()
        return float(self.child.stdout.readline())


def traced(path, command, env):
    """Nanoseconds a pair, of one round with the tool attached."""
    loop = Loop(path)
    bare = min(loop.cost() for _ in range(3))
    child = subprocess.Popen(
        [*command, "-p", str(loop.child.pid), "1000"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=dict(os.environ, **env),
    )
    try:
        deadline = time.monotonic() + 60
        while loop.cost() < 20 * bare + 500:  # until its probes are there
            if child.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{command[0]} attached nothing")
            time.sleep(0.1)
        time.sleep(1)
        return statistics.median(loop.cost() for _ in range(3))
    finally:
        child.kill()
        child.wait()
        loop.child.kill()
        loop.child.communicate()


def main():
    directory = tempfile.mkdtemp()
    try:
        path = os.path.join(directory, "loop")
        with open(path + ".c", "w") as f:
            f.write(PROGRAM)
        subprocess.check_call(
            [
                "gcc",
                "-O1",
                "-fno-builtin",
                "-fno-omit-frame-pointer",
                "-fno-optimize-sibling-calls",
                "-o",
                path,
                path + ".c",
            ]
        )
        candidates = {
            "ours": ([OURS], {}),
            "ours, --source multi": ([OURS, "--source", "multi"], {}),
            "ours, --source perf": ([OURS, "--source", "perf"], {}),
            "ours, --combined-only": ([OURS, "--combined-only"], {}),
            "ours, -S 512K": ([OURS, "-S", "512K"], {}),
            "ours, --unwind": ([OURS, "--unwind"], {}),
        }
        if os.access("/usr/sbin/memleak-bpfcc", os.X_OK):
            bcc = "/usr/sbin/memleak-bpfcc"
            candidates["bcc"] = [bcc], harness.bcc_headers(os.path.join(directory, "tree"), bcc)
        other = os.environ.get("LIBBPF_MEMLEAK", "/usr/sbin/memleak")
        if os.access(other, os.X_OK):
            candidates["libbpf-tools"] = [other], {}
        results = {name: [] for name in candidates}
        for _ in range(ROUNDS):
            for name in list(candidates):
                try:
                    results[name].append(traced(path, *candidates[name]))
                except RuntimeError as exc:
                    harness.left_out(name, exc)
                    del candidates[name], results[name]
        cost = min(Loop(path).cost() for _ in range(3))
        print(
            f"{harness.machine()}, {ROUNDS} rounds of {PAIRS} pairs; without a tool {cost:.0f} ns"
        )
        peers = [name for name in results if not name.startswith("ours")]
        if not peers:
            harness.left_out("bcc and libbpf-tools", "not installed")
        best = min(peers or ["ours"], key=lambda name: statistics.median(results[name]))
        harness.table("a pair of malloc and free", "ns", results, best)
        for ours in ("ours", "ours, -S 512K") if peers else ():
            what = "memleak: a pair of malloc and free" + ours[4:]
            harness.ratio_row(what, best, results[ours], results[best])
        child = subprocess.Popen(["sleep", "1000"])
        try:
            starts = {
                "runqlat": [harness.tool("runqlat"), "1", "1"],
                "memleak -p": [OURS, "-p", str(child.pid), "1", "1"],
                "memleak": [OURS, "1", "1"],
            }
            jobs = {
                name: (lambda command=command: harness.run(command, 1))
                for name, command in starts.items()
            }
            found = harness.interleaved(jobs, 2 * ROUNDS)
        finally:
            child.kill()
            child.wait()
        walls = {name: [run.wall for run in runs] for name, runs in found.items()}
        memory = {name: [run.rss for run in runs] for name, runs in found.items()}
        harness.table("warm start: whole process less the interval", "ms", walls, "runqlat")
        harness.table("peak RSS", "MB", memory, "runqlat")
    finally:
        shutil.rmtree(directory)


if __name__ == "__main__":
    main()
