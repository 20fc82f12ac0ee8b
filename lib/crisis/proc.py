# SPDX-License-Identifier: GPL-2.0-or-later
"""The former names of what is in packages now, for commands that are still to change over."""

from .kernel.cgroup import (mounts as cgroup_mounts, find as find_cgroup, directory as cgroup_directory, v2_directory as cgroup_v2_directory, processes as cgroup_processes, inodes as cgroup_inodes, controller_mount, task_hierarchy, paths as cgroup_paths)  # noqa: F401
from .kernel.interrupts import (softirqs as softirq_names, counts as interrupt_counts, line_count as irq_line_count, name as irq_name)  # noqa: F401
from .kernel.proc import (cpuinfo, thread_count, check_process, check_thread, process_of, processes, in_initial_pid_namespace, kernel_option, unescape_mount, meminfo, vmstat)  # noqa: F401
from .kernel.sysfs import (cpu_list, cpu_ranges, online_cpus, online_nodes, lru_gen)  # noqa: F401
from .perf.event_source import (pmu_cpus)  # noqa: F401
