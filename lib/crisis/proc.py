# SPDX-License-Identifier: GPL-2.0-or-later
"""/proc, /sys and cgroup parsers.  Each takes root="/", so that a fixture tree can stand in."""

import os

from .errors import Error, Unavailable

__all__ = ["thread_count", "cpu_list", "cpu_ranges", "online_cpus", "pmu_cpus", "cpuinfo", "softirq_names",
           "interrupt_counts", "irq_line_count", "irq_name", "check_process", "check_thread", "process_of",
           "processes", "kernel_option", "in_initial_pid_namespace",
           "unescape_mount", "cgroup_mounts", "find_cgroup", "cgroup_paths", "cgroup_processes", "controller_mount",
           "task_hierarchy", "meminfo", "vmstat", "online_nodes", "lru_gen", "cgroup_directory",
           "cgroup_v2_directory", "cgroup_inodes"]

_CPUS = 8192                    # the largest CONFIG_NR_CPUS
_INITIAL_PID_NS = 0xeffffffc    # PROC_PID_INIT_INO, include/linux/proc_ns.h


def _read(root, path):
    with open(os.path.join(root, path), "rb") as f:
        return f.read().decode("utf-8", "surrogateescape")


def thread_count(root="/"):
    """The number of threads that exist on the system: /proc/loadavg's fourth field."""
    return int(_read(root, "proc/loadavg").split()[3].partition("/")[2])


def cpu_list(text):
    """[CPU, …] of the kernel's list format, such as "0-3,8".  Raises ValueError for anything else."""
    found = []
    for part in text.strip().split(","):
        if part:
            low, _, high = part.partition("-")
            if int(high or low) >= _CPUS:
                raise ValueError(part)
            found.extend(range(int(low), int(high or low) + 1))
    return found


def cpu_ranges(cpus):
    """CPU numbers as the kernel writes a list: "0-3,8"."""
    parts, cpus = [], sorted(cpus)
    start = previous = None
    for cpu in cpus + [None]:
        if previous is not None and cpu == previous + 1:
            previous = cpu
            continue
        if previous is not None:
            parts.append("%d" % start if start == previous else "%d-%d" % (start, previous))
        start = previous = cpu
    return ",".join(parts)


def online_cpus(root="/"):
    """[CPU, …] that are online now."""
    return cpu_list(_read(root, "sys/devices/system/cpu/online"))


def pmu_cpus(pmu, root="/"):
    """The CPUs that a PMU counts on ("cpus") or is to be read on ("cpumask"); None when it names none."""
    for name in "cpus", "cpumask":
        try:
            return cpu_list(_read(root, "sys/bus/event_source/devices/%s/%s" % (pmu, name)))
        except FileNotFoundError:
            pass
    return None


def cpuinfo(root="/"):
    """{field: text} of the first CPU in /proc/cpuinfo."""
    fields = {}
    with open(os.path.join(root, "proc/cpuinfo"), encoding="utf-8", errors="replace") as f:
        for line in f:
            name, colon, value = line.partition(":")
            if colon:
                fields.setdefault(name.strip(), value.strip())
            elif fields:
                break                           # the first CPU is enough; 512 of them are long
    return fields


def softirq_names(root="/"):
    """["HI", "TIMER", …], by vector number: the rows of /proc/softirqs."""
    return [line.split(":")[0].strip() for line in _read(root, "proc/softirqs").splitlines()[1:]]


def interrupt_counts(root="/"):
    """{(kind, row, CPU): number since boot} of /proc/interrupts ("hard") and /proc/softirqs ("soft"), without zeros.

    row: the number of a line, the letters of another interrupt, or the name of a
    softirq.  CAL includes TLB, which x86 takes out of it (arch_show_interrupts()).
    The counts are 32 bits wide and wrap.
    """
    found = {}
    for kind, path in ("hard", "proc/interrupts"), ("soft", "proc/softirqs"):
        head, *lines = _read(root, path).splitlines()
        cpus = [int(word[3:]) for word in head.split()]
        for line in lines:
            name, _, rest = line.partition(":")
            name = name.strip()
            row = int(name) if name.isdigit() else "CAL" if name == "TLB" else name
            for cpu, word in zip(cpus, rest.split()):
                if not word.isdigit():
                    break
                if word != "0":
                    found[kind, row, cpu] = found.get((kind, row, cpu), 0) + int(word)
    return found


def irq_line_count(root="/"):
    """The number of interrupt lines that /proc/interrupts shows."""
    return sum(line.partition(":")[0].strip().isdigit() for line in _read(root, "proc/interrupts").splitlines())


def irq_name(number, root="/"):
    """The handlers of an interrupt line, "ahci,ehci_hcd"; "irq7" when that is not told, or they have gone."""
    try:
        return _read(root, "sys/kernel/irq/%d/actions" % number).strip() or "irq%d" % number
    except OSError:
        return "irq%d" % number


def _status(pid, root):
    if pid >= 1 << 31:              # of no pid_t
        return None
    try:
        text = _read(root, "proc/%d/status" % pid)
    except (FileNotFoundError, ProcessLookupError):
        return None
    return dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)


def check_process(pid, root="/"):
    """Raise Error unless `pid` is a live process (and not merely a thread of one)."""
    status = _status(pid, root)
    if status is None:
        raise Error("no such process: %d" % pid)
    if int(status["Tgid"]) != pid:
        raise Error("%d is a thread of process %s, not a process" % (pid, status["Tgid"]))


def check_thread(tid, root="/"):
    """Raise Error unless `tid` is a live thread."""
    if _status(tid, root) is None:
        raise Error("no such thread: %d" % tid)


def process_of(tid, root="/"):
    """The PID of the process that a thread is of.  Raises Error when there is no such thread."""
    status = _status(tid, root)
    if status is None:
        raise Error("no such thread: %d" % tid)
    return int(status["Tgid"])


def processes(root="/"):
    """The PIDs of all processes, in no order.  Raises OSError (ENOENT) where /proc is not mounted."""
    if root == "/":
        os.lstat("/proc/self")
    return [int(name) for name in os.listdir(os.path.join(root, "proc")) if name.isdigit()]


def kernel_option(name, root="/"):
    """Whether a CONFIG_ option is y in /boot/config-RELEASE or /proc/config.gz; None where neither can be read."""
    for path in "boot/config-" + os.uname().release, "proc/config.gz":
        try:
            with open(os.path.join(root, path), "rb") as f:
                raw = f.read()
        except OSError:
            continue
        if path.endswith(".gz"):
            import zlib
            try:
                raw = zlib.decompress(raw, 31)
            except zlib.error:          # hidden, in a container
                continue
        return (name + "=y").encode() in raw.splitlines()
    return None


def in_initial_pid_namespace(root="/"):
    """True where the PIDs that we see are the ones that the kernel's programs see."""
    try:
        return os.readlink(os.path.join(root, "proc/self/ns/pid")) == "pid:[%d]" % _INITIAL_PID_NS
    except OSError:
        return True


def unescape_mount(text):
    r"""A field of /proc/PID/mountinfo with its \040-style escapes undone."""
    if "\\" not in text:
        return text
    head, *rest = text.split("\\")
    return head + "".join(chr(int(part[:3], 8)) + part[3:] if part[:3].isdigit() else "\\" + part for part in rest)


def cgroup_mounts(root="/"):
    """[(mount point, directory of the hierarchy mounted there, set of v1 controllers or None for v2)]."""
    found = []
    for line in _read(root, "proc/self/mountinfo").splitlines():
        left, _, right = line.partition(" - ")
        fields, (kind, _, options) = left.split(" "), (right.split(" ") + ["", ""])[:3]
        if kind in ("cgroup", "cgroup2"):
            controllers = None
            if kind == "cgroup":
                controllers = {o for o in options.split(",") if o not in ("rw", "ro") and "=" not in o}
            found.append((unescape_mount(fields[4]), unescape_mount(fields[3]), controllers))
    return found


def find_cgroup(path, root="/"):
    """(id, level, v1 controllers or None for v2, mount point) of a cgroup directory.

    path: a directory of a mounted cgroup file system, or a cgroup's own path
    ("/system.slice/cron.service"), which is looked up in the v2 hierarchy and
    then in the v1 ones.  id is kernfs' (the inode number), level is the depth
    below the hierarchy's root: cgroup.level, kernel/cgroup/cgroup.c.
    Raises Error when there is no such cgroup, Unavailable when its level cannot be known.
    """
    number, level, controllers, point, _ = _cgroup(path, root)
    if level is None:
        raise Unavailable("the depth of cgroup %s is not visible from this cgroup namespace" % path)
    return number, level, controllers, point


def _cgroup(path, root):
    mounts = cgroup_mounts(root)
    candidates = [os.path.realpath(os.path.join(root, path.lstrip("/")) if root != "/" else path)]
    for point, _, controllers in sorted(mounts, key=lambda m: m[2] is not None):
        candidates.append(os.path.join(root, point.lstrip("/"), path.lstrip("/")))
    for candidate in candidates:
        best = None
        for point, top, controllers in mounts:
            base = os.path.join(root, point.lstrip("/")).rstrip("/")
            if (candidate + "/").startswith(base + "/") and (best is None or len(base) > len(best[0])):
                best = base, top, controllers, point
        if best is None:
            continue
        try:
            info = os.stat(candidate)
        except OSError:
            continue
        if not os.path.isdir(candidate):
            continue
        base, top, controllers, point = best
        below = [part for part in (top + candidate[len(base):]).split("/") if part]
        return info.st_ino, None if ".." in below else len(below), controllers, point, candidate
    raise Error("no such cgroup: %s" % path)


def cgroup_directory(path, root="/"):
    """The directory of a cgroup that is named as for find_cgroup.  Raises Error as find_cgroup."""
    return _cgroup(path, root)[4]


def cgroup_v2_directory(path, root="/"):
    """(directory, mount point) of a cgroup that is named as for find_cgroup; None for one of a v1 hierarchy.

    Raises Error as find_cgroup.
    """
    _, _, controllers, point, directory = _cgroup(path, root)
    return None if controllers is not None else (directory, os.path.join(root, point.lstrip("/")))


def cgroup_processes(path, root="/"):
    """The PIDs of the processes in a cgroup directory, or cgroup path, and below it.  Raises Error as find_cgroup.

    Those that this PID namespace does not show, which the file has as 0 (cgroup_procs_show(), kernel/cgroup/cgroup.c),
    are left out.
    """
    found = []
    for directory, _, files in os.walk(_cgroup(path, root)[4]):
        if "cgroup.procs" in files:
            try:
                with open(os.path.join(directory, "cgroup.procs")) as f:
                    found += [int(row) for row in f.read().split() if row != "0"]
            except OSError:         # a threaded one, or it has been removed
                continue
    return found


def cgroup_inodes(path, root="/"):
    """The inode numbers, which are their ids, of a cgroup and those below it.  Raises Error as find_cgroup."""
    return {os.stat(directory).st_ino for directory, _, _ in os.walk(_cgroup(path, root)[4])}


def controller_mount(controller, root="/"):
    """(mount point, controllers or None) of the hierarchy of a controller: v1's own, else v2; None without."""
    mounts = cgroup_mounts(root)
    for point, _, controllers in mounts:
        if controllers is not None and controller in controllers:
            return point, controllers
    for point, _, controllers in mounts:
        if controllers is None:
            return point, None
    return None


def task_hierarchy(version=None, root="/"):
    """(mount point, controllers or None) of the hierarchy into whose cgroups tasks are placed; None without.

    version: 1 for that of v1's cpu controller, 2 for v2.  By default, where both
    are mounted, the one that leaves fewer processes in its root: systemd places
    them in v2's alone, an older container runtime in v1's.
    """
    found = {}
    for point, _, controllers in cgroup_mounts(root):
        if controllers is None or "cpu" in controllers:
            found.setdefault(2 if controllers is None else 1, (point, controllers))
    if version:
        return found.get(version)

    def in_root(number):
        return _read(root, found[number][0].lstrip("/") + "/cgroup.procs").count("\n")
    return found[min(found, key=lambda number: (in_root(number), -number))] if found else None


def cgroup_paths(ids, mount_point, root="/"):
    """{id: path below the mount point, "/" for its root} of those cgroups that still exist."""
    wanted, found = set(ids), {}
    base = os.path.join(root, mount_point.lstrip("/"))
    pending = [base]
    while pending and len(found) < len(wanted):
        directory = pending.pop()
        try:
            number = os.stat(directory).st_ino
            with os.scandir(directory) as entries:
                pending += [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
        except OSError:
            continue
        if number in wanted:
            found[number] = directory[len(base.rstrip("/")):] or "/"
    return found


def meminfo(root="/"):
    """{field: bytes} of /proc/meminfo; a field without a unit (HugePages_Total) stays a number."""
    found = {}
    for line in _read(root, "proc/meminfo").splitlines():
        name, _, value = line.partition(":")
        fields = value.split()
        found[name] = int(fields[0]) * (1024 if fields[1:] == ["kB"] else 1)
    return found


def vmstat(name, root="/"):
    """A counter of /proc/vmstat.  Raises KeyError for one that this kernel has not."""
    for line in _read(root, "proc/vmstat").splitlines():
        key, _, value = line.partition(" ")
        if key == name:
            return int(value)
    raise KeyError(name)


def online_nodes(root="/"):
    """The numbers of the NUMA nodes that are online; [0] where the kernel knows no nodes."""
    try:
        text = _read(root, "sys/devices/system/node/online")
    except OSError:
        return [0]
    nodes = []
    for part in text.strip().split(","):
        low, _, high = part.partition("-")
        nodes += range(int(low), int(high or low) + 1)
    return nodes


def lru_gen(root="/"):
    """True where the multi-generational LRU is switched on (Documentation/admin-guide/mm/multigen_lru.rst)."""
    try:
        return bool(int(_read(root, "sys/kernel/mm/lru_gen/enabled"), 16) & 1)
    except OSError:
        return False
