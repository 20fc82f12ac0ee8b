# SPDX-License-Identifier: GPL-2.0-or-later
"""crisis-check against other tools' trials of the same sources, and against the commands."""

import ctypes
import errno
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import time

import pytest

from helpers import (
    GUEST,
    NOBODY,
    ROOT,
    SLOW,
    as_nobody,
    needs_quiet_machine,
    readable_root,
    run,
    tool,
)

# A short run of each command; {pid} is a process that exists.
SHORT = {
    "cachesnoop": ["-d", ".1"],
    "cpuhot": ["1", "1"],
    "cputemp": ["1", "1"],
    "delays": [".1", "1"],
    "drsnoop": ["-d", ".1"],
    "fincore": [tool("fincore")],
    "nicstat": [".1", "1"],
    "oomkill": ["-d", ".1"],
    "memleak": ["-p", "{pid}", ".1", "1"],
    "pagecache": ["touch", tool("pagecache")],
    "runqslower": ["-d", ".1"],
    "wss": ["{pid}", ".1"],
}
COMMANDS = [
    name for name in sorted(os.listdir(os.path.join(ROOT, "bin"))) if not name.startswith("crisis-")
]


def records(*args, by=run):
    result = by("crisis-check", "-j", *args)
    assert result.stderr == "" and result.stdout, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def states(found, kind="source"):
    return {record["name"]: record["state"] for record in found if record["record"] == kind}


@pytest.fixture(scope="module")
def found():
    return records()


def succeeds(*command, inside=()):
    """Whether a program exits with 0, started by the words `inside`; skips the test where it is not
    installed.
    """
    if not shutil.which(command[0]):
        pytest.skip(f"{command[0]} is not installed")
    result = subprocess.run(
        [*inside, *command], stdin=subprocess.DEVNULL, capture_output=True, timeout=60 * SLOW
    )
    return result.returncode == 0


PROBES = {
    "kprobe": ["kprobe:out_of_memory"],
    "fentry": ["kfunc:out_of_memory", "fentry:out_of_memory"],
    "tracepoint": ["tracepoint:oom:mark_victim"],
    "uprobe": ["uprobe:libc:fcloseall"],
}


@pytest.mark.parametrize("source", sorted(PROBES))
def test_probes_as_bpftrace_attaches_them(found, source):
    # bpftrace needs tracefs at this place, which not every machine mounts.
    inside = [
        "unshare",
        "-m",
        "sh",
        "-c",
        'mount -t tracefs t /sys/kernel/tracing; exec "$@"',
        "sh",
    ]
    attached = any(
        succeeds("bpftrace", "-e", f"{probe} {{ @ = 1 }} BEGIN {{ exit() }}", inside=inside)
        for probe in PROBES[source]
    )
    assert states(found)[source] == ("works" if attached else "no")


def test_btf_as_bpftool_reads_it(found):
    has_btf = succeeds("bpftool", "btf", "dump", "id", "1")
    assert states(found)["btf"] == ("works" if has_btf else "no")
    if not has_btf:
        assert states(found)["tp_btf"] == "no"


def test_types_as_bpftool_probes_them(found):
    """bpftool creates maps, and loads programs; it cannot load those of tp_btf."""
    if not shutil.which("bpftool"):
        pytest.skip("bpftool is not installed")
    command = ["bpftool", "-j", "feature", "probe", "kernel"]
    probed = json.loads(subprocess.check_output(command))
    for name in "ringbuf", "task_storage", "stack_trace":
        there = probed["map_types"][f"have_{name}_map_type"]
        assert states(found)[name] == ("works" if there else "no"), name
    there = probed["program_types"]["have_raw_tracepoint_prog_type"]
    assert states(found)["raw_tp"] == ("works" if there else "no")


def test_counters_as_perf_opens_them(found):
    if not shutil.which("perf"):
        pytest.skip("perf is not installed")

    def counted(event):
        result = subprocess.run(
            ["perf", "stat", "-x,", "-a", "-e", event, "sleep", ".1"],
            capture_output=True,
            text=True,
        )
        return result.returncode == 0 and result.stderr.split(",")[0].replace(".", "").isdigit()

    assert states(found)["perf_events"] == ("works" if counted("cpu-clock") else "no")
    assert states(found)["pmu"] == ("works" if counted("cycles") else "no")


def readable(path):
    try:
        with open(path, "rb") as f:
            return bool(f.read(64))
    except OSError:
        return False


@pytest.mark.parametrize(
    "source, path",
    [
        ("psi", "/proc/pressure/cpu"),
        ("schedstat", "/proc/schedstat"),
        ("idle_page", "/sys/kernel/mm/page_idle/bitmap"),
        ("kpagecgroup", "/proc/kpagecgroup"),
        ("msr", "/dev/cpu/0/cpuid"),
        ("cpufreq", "/sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq"),
    ],
)
def test_what_is_a_file(found, source, path):
    if source == "msr":
        path = "/dev/cpu/0/msr"
        assert states(found)[source] == ("works" if os.path.exists(path) else "no")
        return
    assert states(found)[source] == ("works" if readable(path) else "no")


def test_cachestat_as_libc_calls_it(found):
    libc = ctypes.CDLL(None, use_errno=True)
    with open("/bin/sh", "rb") as f:
        span, counts = (ctypes.c_uint64 * 2)(0, 4096), (ctypes.c_uint64 * 5)()
        failed = libc.syscall(451, f.fileno(), ctypes.byref(span), ctypes.byref(counts), 0)
    assert not failed or ctypes.get_errno() in (errno.ENOSYS, errno.EPERM)
    assert states(found)["cachestat"] == ("no" if failed else "works")


def test_accounting_as_pyroute2_and_sysctl_have_it(found):
    check = "import pyroute2, os; t = pyroute2.TaskStats(); t.bind(); t.get_pid_stat(os.getpid())"
    works = succeeds("/usr/bin/python3", "-c", check)
    assert states(found)["taskstats"] == ("works" if works else "no")
    try:
        with open("/proc/sys/kernel/task_delayacct") as f:
            on = f.read().strip() == "1"
    except FileNotFoundError:
        pytest.skip("before Linux 5.14 there is no sysctl to compare with")
    assert states(found)["delayacct"] == ("works" if on else "no")


def test_the_compiler_as_python_imports_it(found):
    result = subprocess.run(
        ["/usr/bin/python3", "-c", "import bcc; print(bcc.__version__)"],
        capture_output=True,
        text=True,
    )
    (bcc,) = (record for record in found if record["name"] == "bcc")
    assert bcc["state"] == ("no" if result.returncode else "works")
    if not result.returncode:
        version, _, clang = bcc["note"].partition(", clang ")
        assert version == result.stdout.strip()
        linked = subprocess.getoutput("ldd /usr/lib/*/libbcc.so.0 | grep -o 'libLLVM[-.so]*[0-9]*'")
        if linked:
            assert clang == re.findall(r"\d+", linked)[0]


def test_tools_as_the_shell_finds_them(found):
    path = os.environ["PATH"] + ":/usr/local/sbin:/usr/sbin:/sbin"
    for record in found:
        if record["record"] == "package" and record["name"] not in ("nicstat", "bpfcc-tools"):
            missing = [name for name in record["commands"] if not shutil.which(name, path=path)]
            assert (record["missing"], record["state"]) == (missing, "no" if missing else "works")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_runs_as_predicted(found, command):
    """It ends with the predicted status, and with BPF by the predicted program."""
    arguments = [word.format(pid=os.getpid()) for word in SHORT.get(command, [".1", "1"])]
    (predicted,) = (
        record for record in found if record["record"] == "command" and record["name"] == command
    )
    verbose = [] if command == "nicstat" else ["-v"]
    result = run(command, *verbose, *arguments)
    assert result.returncode == {"works": 0, "no": 69}[predicted["state"]], result.stderr
    attached = re.findall(rf"^{command}: ({command}\.\w+): attached to", result.stderr, re.M)
    if attached:
        assert predicted["source"] in attached
    assert run("crisis-check", command).returncode == result.returncode


@pytest.mark.parametrize("command", COMMANDS)
def test_missing_privileges_are_reported_to_a_user(command):
    """What root alone may try is unknown, and such a command ends with the predicted status."""
    predicted = as_nobody("crisis-check", command)
    assert predicted.stderr == ""
    if command in ("fincore", "pagecache", "wss"):  # the owner of the file or process decides
        assert predicted.returncode == 0
        return
    arguments = [word.format(pid=os.getpid()) for word in SHORT.get(command, [".1", "1"])]
    result = as_nobody(command, *arguments)
    assert predicted.returncode == result.returncode, predicted.stdout + result.stderr


def test_a_user_sees_no_source_as_broken_that_root_has():
    before, user, after = states(records()), states(records(by=as_nobody)), states(records())
    for name, state in before.items():
        if after[name] == state:  # another test may have written a sysctl meanwhile
            assert user[name] == state or user[name] == "unknown", name
    assert user["bpf"] == user["taskstats"] == "unknown"


@pytest.mark.parametrize("command", ["cachestat", "irqtime", "oomkill", "runqlat"])
def test_two_capabilities_suffice_or_are_said_not_to(command):
    """With CAP_BPF and CAP_PERFMON alone: tracefs and the cache of programs are root's."""
    only = "-all,+bpf,+perfmon"
    user = [*NOBODY, f"--inh-caps={only}", f"--ambient-caps={only}", f"--bounding-set={only}"]
    check = os.path.join(readable_root(), "bin", "crisis-check")
    result = subprocess.run([*user, check, "-j", command], capture_output=True, text=True, cwd="/")
    found = [json.loads(line) for line in result.stdout.splitlines()]
    assert states(found)["bpf"] == "works", result.stderr
    if os.stat("/sys/kernel/tracing").st_mode & 0o005 == 0 and "tracefs" in states(found):
        assert states(found)["tracefs"] == "unknown"
    short = SHORT.get(command, [".1", "1"])
    there = os.path.join(readable_root(), "bin", command)
    assert run_status(*user, there, *short) == result.returncode


def system_state():
    """What a check could leave behind, of the whole system."""
    state = {}
    for path in (
        "/proc/self/mountinfo",
        "/proc/sys/kernel/bpf_stats_enabled",
        "/proc/sys/kernel/task_delayacct",
        "/proc/sys/kernel/perf_event_paranoid",
        "/sys/kernel/tracing/kprobe_events",
        "/sys/kernel/tracing/uprobe_events",
        "/sys/kernel/mm/damon/admin/kdamonds/nr_kdamonds",
    ):
        try:
            with open(path) as f:
                state[path] = f.read()
        except OSError as exc:
            state[path] = exc.errno
    return state


def test_nothing_is_changed():
    before = system_state()
    records()
    assert system_state() == before
    if shutil.which("bpftool"):
        programs = subprocess.check_output(["bpftool", "prog", "show"], text=True)
        assert "name nothing" not in programs


@needs_quiet_machine
def test_it_is_fast():
    begin, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    records()
    wall, after = time.monotonic() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert cpu < 0.6 * SLOW
    load = os.getloadavg()[0]
    if load > os.cpu_count():
        pytest.skip(f"load average {load}: {cpu:.2f} s of a CPU took {wall:.2f} s")
    assert wall < 1 * SLOW


def test_without_proc_and_sys():
    for directory in "/proc", "/sys":
        script = f"umount -l {directory} && {tool('crisis-check')} && {tool('crisis-check')} -j"
        result = subprocess.run(
            ["unshare", "-m", "sh", "-c", script], capture_output=True, text=True
        )
        assert result.returncode == 0 and result.stderr == "", result.stderr
        assert "Traceback" not in result.stdout


def test_in_a_container():
    """Without the capabilities of BPF and perf, in PID and network namespaces of its own."""
    if GUEST:
        pytest.skip("the guest has no user namespaces")
    result = subprocess.run(
        [
            "unshare",
            "-fpn",
            "--mount-proc",
            *NOBODY,
            os.path.join(readable_root(), "bin/crisis-check"),
            "-j",
        ],
        capture_output=True,
        text=True,
        cwd="/",
    )
    assert result.returncode == 0 and result.stderr == "", result.stderr
    found = [json.loads(line) for line in result.stdout.splitlines()]
    assert states(found)["bpf"] == "unknown" and states(found)["btf"] == "works"
    inside = subprocess.run(
        ["unshare", "-fpn", "--mount-proc", tool("crisis-check"), "-j", "delays"],
        capture_output=True,
        text=True,
    )
    assert inside.returncode == run_status(
        "unshare", "-fpn", "--mount-proc", tool("delays"), ".1", "1"
    )


def run_status(*command):
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True).returncode


@pytest.mark.parametrize("line", ["| head -1", "> /dev/full"])
def test_where_the_output_goes(line):
    result = subprocess.run(
        ["bash", "-c", f"{tool('crisis-check')} {line}; echo ${{PIPESTATUS[0]}}"],
        capture_output=True,
        text=True,
    )
    status = result.stdout.split()[-1]
    assert status in (("0", "141") if "head" in line else ("1",)), result.stderr


def test_ctrl_c_ends_it_at_once():
    child = subprocess.Popen([tool("crisis-check")], stdout=subprocess.PIPE)
    time.sleep(0.3 * SLOW)
    child.send_signal(signal.SIGINT)
    child.communicate(timeout=5 * SLOW)
    assert child.returncode in (0, -signal.SIGINT)  # the latter before cli.run() has begun
