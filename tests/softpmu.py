# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs a PMC command with software events for the CPU's: all of the command, and the kernel behind
it, is real.

    python3 -IS tests/softpmu.py pmcarch [ARGUMENT...]

SOFTPMU_GROUPS=2 makes two groups; SOFTPMU_TARGETS=512 opens each CPU's set as often as makes 512 in
all; SOFTPMU_ONLINE names a file that stands for /sys/devices/system/cpu/online; SOFTPMU_UNKNOWN is
a CPU without a table; with SOFTPMU_FAULTS, page faults stand for branch misses.
"""

import os
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, "lib"))
from crisis import cli
from crisis.kernel import sysfs  # noqa: E402
from crisis.perf import event, group  # noqa: E402
from crisis.pmu import session, tasks
from crisis.pmu.plan import Plan

# Counter: number of the software event (include/uapi/linux/perf_event.h).
STAND_INS = {
    "cycles": 0,
    "instructions": 1,
    "branches": 2,
    "branch_misses": 6,
    "llc_refs": 3,
    "llc_misses": 4,
    "l1d_refs": 5,
    "l1d_misses": 7,
    "l2_refs": 8,
    "l2_misses": 9,
    "bus_cycles": 10,
}


def plan(clusters, root="/", shared_l3=True):
    result = Plan("cpu", None, "software")
    for cluster in clusters:
        result.add(
            [
                (counter, [(event.Event(1, STAND_INS[counter], name=counter), 1)])
                for counter in cluster
                if counter in STAND_INS
            ]
        )
    if os.environ.get("SOFTPMU_GROUPS") == "2":
        group.layout = lambda clusters, **_: ([[0], list(range(1, sum(map(len, clusters))))], {})
    return [result], ["cpu"] if "SOFTPMU_UNKNOWN" in os.environ else []


def main():
    sys.argv[:] = sys.argv[1:]
    if "SOFTPMU_FAULTS" in os.environ:
        STAND_INS["branch_misses"] = 2
    path = os.path.join(ROOT, "bin", sys.argv[0])
    command = {"__name__": "command", "__file__": path}
    with open(path) as f:
        exec(compile(f.read(), path, "exec"), command)
    session.plan = tasks.plan = plan
    if "SOFTPMU_TARGETS" in os.environ:
        real, simulated = sysfs.online_cpus(), list(range(int(os.environ["SOFTPMU_TARGETS"])))
        sysfs.online_cpus = lambda root="/": simulated
        session.Session._target = lambda self, cpu: (-1, real[cpu % len(real)])
    if "SOFTPMU_ONLINE" in os.environ:
        sysfs.online_cpus = lambda root="/": sysfs.cpu_list(
            open(os.environ["SOFTPMU_ONLINE"]).read()
        )
    cli.run(command["main"], command["get_parser"])


if __name__ == "__main__":
    main()
