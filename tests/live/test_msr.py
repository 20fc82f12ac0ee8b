# SPDX-License-Identifier: GPL-2.0-or-later
"""showboost, cputemp and cpuhot: on this machine as it is, on simulated registers, and on perf's
real TSC event.

The simulated registers come from a FUSE file system that behaves as the msr
and cpuid drivers do; the truth is what it is set to simulate.
"""

import copy
import json
import os
import shutil
import subprocess
import sys

import pytest

from crisis.cpu import base_clock, clock, clock_rate, cstates, info
from crisis.errors import NotPermitted, Unavailable
from crisis.kernel import sysfs
from helpers import NOBODY, ROOT, SLOW, readable_root, run, tool, workload

COMMANDS = "showboost", "cputemp", "cpuhot"
CPUINFO = "".join(
    f"processor\t: {cpu}\nvendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 62\n"
    "model name\t: Intel(R) Xeon(R) CPU E5-2670 v2 @ 2.80GHz\ncpu MHz\t\t: 2500.000\n"
    "flags\t\t: fpu aperfmperf dtherm pts\n\n"
    for cpu in range(2)
)
INTEL = {
    "registers": {
        "0xce": 25 << 8,
        "0x1ad": 0x1C1C1E1E20202020,
        "0x1ae": 0,
        "0x1a2": 100 << 16,
        "0x19c": [1 << 31 | 40 << 16, 1 << 31 | 41 << 16 | 2],
        "0x1b1": 35 << 16,
    },
    "leaves": {"0x0": [0xD, 0, 0, 0]},
    "binds": {"/proc/cpuinfo": CPUINFO},
}
# A base clock of 3250 MHz in the P-state register, and no register of Intel's.
AMD = {
    "tsc_mhz": 3250,
    "util": 0.25,
    "ratio": 1.12,
    "registers": {"0xc0010064": 1 << 63 | 8 << 8 | 0x82},
    "binds": {
        "/proc/cpuinfo": CPUINFO.replace("GenuineIntel", "AuthenticAMD").replace(
            "ily\t: 6", "ily\t: 25"
        )
    },
}


def simulated(spec, *command, **kwargs):
    """The command's result where /dev/cpu holds what the spec says; skips where that cannot be
    mounted.
    """
    for need, found in (
        ("root", os.geteuid() == 0),
        ("/dev/fuse", os.path.exists("/dev/fuse")),
        ("unshare", shutil.which("unshare")),
    ):
        if not found:
            pytest.skip(f"simulated registers need {need}")
    if subprocess.call(["/usr/bin/python3", "-c", "import fusepy"], stderr=subprocess.DEVNULL):
        pytest.skip("simulated registers need python3-fusepy")
    if len(sysfs.online_cpus()) < 2:
        pytest.skip("simulated registers are of two CPUs, and this machine has one")
    result = subprocess.run(
        [os.path.join(ROOT, "tests/tools/with-msr"), json.dumps(spec), *command],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=60 * SLOW,
        **kwargs,
    )
    if result.returncode == 125:
        pytest.skip(f"the FUSE file system cannot be mounted: {result.stderr.strip()}")
    return result


def records(spec, name, *args):
    result = simulated(spec, tool(name), "-j", *args)
    assert result.returncode == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def changed(spec, **registers):
    spec = copy.deepcopy(spec)
    spec["registers"].update({"0x" + name[1:]: value for name, value in registers.items()})
    return spec


def has_hardware():
    return any(
        os.path.exists(path)
        for path in (
            "/dev/cpu/0/msr",
            "/sys/class/hwmon/hwmon0",
            "/sys/class/thermal/thermal_zone0",
        )
    )


@pytest.mark.guest
@pytest.mark.parametrize("name", ["cputemp", "cpuhot"])
@pytest.mark.parametrize("prefix", [[], NOBODY], ids=["root", "nobody"])
def test_a_machine_that_shows_nothing(name, prefix):
    """One line and 69, never a header without rows; for every user: no privilege would help."""
    if has_hardware():
        pytest.skip("this machine has an msr device, a hardware monitor or a thermal zone")
    if prefix and os.geteuid():
        pytest.skip("only root can become somebody else")
    result = subprocess.run(
        prefix + [os.path.join(readable_root(), "bin", name), "1", "1"],
        capture_output=True,
        text=True,
        cwd="/",
    )
    assert result.returncode == 69 and result.stdout == ""
    assert result.stderr.count("\n") == 1 and result.stderr.startswith(name + ": cannot ")
    assert "irtual machine" in result.stderr or "hypervisor" not in open("/proc/cpuinfo").read()


@pytest.mark.guest
def test_simulated_clock_is_the_truth():
    machine, *rows = records(INTEL, "showboost", "--all", "1", "3")
    assert (machine["base_mhz"], machine["base_source"], machine["source"]) == (
        2500,
        "MSR 0xce",
        "msr",
    )
    assert [step["mhz"] for step in machine["turbo"]] == [
        2800,
        2800,
        3000,
        3000,
        3200,
        3200,
        3200,
        3200,
    ]
    assert [row["cpu"] for row in rows] == [0, 1] * 3
    for row in rows:
        assert row["mhz"] == pytest.approx(3200, rel=0.02) and row["util_ratio"] == pytest.approx(
            0.5, rel=0.02
        )
        assert row["ratio"] == pytest.approx(1.28, rel=0.02)
        assert row["c0_acyc"] == pytest.approx(1.28 * row["c0_mcyc"], rel=0.02)
        # Between the clock of the interval and that of the registers lie the wakeup and the read.
        assert row["c0_mcyc"] == pytest.approx(
            1.25e9 * row["seconds"], rel=0.1 if SLOW == 1 else 0.5
        )


def test_text_as_the_original_prints_it():
    result = simulated(INTEL, tool("showboost"), "-C", "1", ".3", "2")
    lines = result.stdout.splitlines()
    assert lines[:6] == [
        "Base CPU MHz : 2500",
        "Set CPU MHz  : -",
        "Turbo MHz(s) : 2800 3000 3200",
        "Turbo Ratios : 112% 120% 128%",
        "CPU 1 summary every 0.3 seconds...",
        "",
    ]
    assert lines[6] == "TIME       C0_MCYC      C0_ACYC        UTIL  RATIO    MHz"
    assert len(lines) == 9 and all(len(line.split()) == 6 and "%" in line for line in lines[7:])
    assert result.stderr == ""


def test_model_name_says_nothing():
    """The name says 2.80 GHz; the original multiplied by that."""
    assert records(INTEL, "showboost", ".2", "1")[0]["base_mhz"] == 2500


def test_cpuid_states_the_base_clock_first():
    spec = changed(INTEL)
    spec["leaves"] = {"0x0": [0x16, 0, 0, 0], "0x16": [2600, 3300, 100, 0]}
    spec["tsc_mhz"] = 2600
    machine, row = records(spec, "showboost", "1", "1")
    assert (machine["base_mhz"], machine["base_source"]) == (2600, "CPUID 16h")
    assert row["mhz"] == pytest.approx(2600 * 1.28, rel=0.02)


def test_base_clock_by_the_tsc_alone():
    machine, row = records(changed(INTEL, rce=None), "showboost", "1", "1")
    assert machine["base_source"] == "TSC" and machine["base_mhz"] == pytest.approx(2500, rel=0.02)
    assert row["mhz"] == pytest.approx(3200, rel=0.03)


def test_amd_pstate():
    machine, row = records(AMD, "showboost", "1", "1")
    assert (machine["base_mhz"], machine["base_source"], machine["turbo"]) == (
        3250,
        "MSR 0xc0010064",
        [],
    )
    assert row["mhz"] == pytest.approx(3640, rel=0.02) and row["util_ratio"] == pytest.approx(
        0.25, rel=0.02
    )


def test_summary_of_cpus():
    _, *rows = records(INTEL, "showboost", "--summary", ".5", "2")
    assert [row["stat"] for row in rows] == ["min", "avg", "max"] * 2
    for low, mean, high in (rows[:3], rows[3:]):
        assert low["mhz"] <= mean["mhz"] <= high["mhz"] and "cpu" not in mean


@pytest.mark.guest
@pytest.mark.parametrize("value", [0, None], ids=["read 0", "refused"])
def test_counters_that_do_not_count(value):
    """Never 0 MHz, and without counters the loop's clock."""
    spec = changed(INTEL, re7=value, re8=value)
    result = simulated(spec, tool("showboost"), "--source", "msr", ".2", "1")
    assert result.returncode == 69 and result.stdout == "" and result.stderr.count("\n") == 1
    assert "APERF and MPERF" in result.stderr
    machine, _ = records(spec, "showboost", ".2", "1")
    assert machine["source"] == "loop"


def test_counters_that_stand_still():
    spec = changed(INTEL, re7=[5, 7], re8=[5, 7])
    with workload("while True: pass", cpu=0), workload("while True: pass", cpu=1):
        _, *rows = records(spec, "showboost", "--all", ".2", "1")
    assert [(row["mhz"], row["util_ratio"], row["c0_mcyc"]) for row in rows] == [
        (None, None, None)
    ] * 2


def test_nobody_gets_the_missing_privilege_named():
    """That ends cputemp and cpuhot; showboost measures without it, and names what is missing."""
    for name in COMMANDS:
        result = simulated(
            INTEL, *NOBODY, os.path.join(readable_root(), "bin", name), ".2", "1", cwd="/"
        )
        assert "CAP_SYS_RAWIO" in result.stderr
        if name == "showboost":
            assert result.returncode == 0 and "clock of a busy core" in result.stdout
        else:
            assert result.returncode == 77 and result.stdout == ""
            assert result.stderr.count("\n") == 1


@pytest.mark.guest
def test_simulated_temperatures():
    (record,) = records(INTEL, "cputemp")
    assert {
        s["name"]: (s["celsius"], s["limit_celsius"], s["source"]) for s in record["sensors"]
    } == {
        "CPU0": (60, 100, "MSR 0x19c"),
        "CPU1": (59, 100, "MSR 0x19c"),
        "Package id 0": (65, 100, "MSR 0x1b1"),
    }
    assert record["avg_celsius"] == 59.5 and record["max_celsius"] == 60
    result = simulated(INTEL, tool("cputemp"))
    assert [line.split() for line in result.stdout.splitlines()] == [["CPU1", "CPU2"], ["60", "59"]]


def test_a_reading_that_is_not_valid_is_none():
    (record,) = records(changed(INTEL, r19c=[40 << 16, 1 << 31 | 41 << 16]), "cputemp")
    assert [s["celsius"] for s in record["sensors"] if s["source"] == "MSR 0x19c"] == [None, 59]
    assert record["avg_celsius"] == 59
    result = simulated(changed(INTEL, r1a2=None), tool("cputemp"))
    # below an unknown limit is no temperature
    assert result.returncode == 69 and result.stdout == ""


def test_cputemp_utilization_and_average():
    lines = simulated(INTEL, tool("cputemp"), "-a", "-u", ".3", "2").stdout.splitlines()
    assert lines[0].split() == ["AvgUtil(%)", "AvgTemp(C)"] and len(lines) == 3
    for line in lines[1:]:
        used, degrees = line.split()
        assert 0 <= int(used) <= 100 and degrees == "59.5"


def test_simulated_flags():
    rows = records(INTEL, "cpuhot")
    assert [(r["cpu"], r["prochot_celsius"], r["celsius"], r["flags"]) for r in rows] == [
        (0, 100, 60, 0),
        (1, 100, 59, 2),
    ]
    assert rows[1]["why"] == ["thermal_log"] and rows[0]["core_throttle_count"] is None
    classic = simulated(INTEL, tool("cpuhot"))
    assert classic.stdout == "- CPU1 CPU2\nPROCHOT 100 100\nCelsius 60 59\nFlags 0x0 0x2\n"
    hot = simulated(INTEL, tool("cpuhot"), "--hot").stdout.splitlines()
    assert [line.split()[0] for line in hot] == ["CPU", "1"]
    cool = simulated(changed(INTEL, r19c=1 << 31 | 40 << 16), tool("cpuhot"), "--hot")
    assert cool.returncode == 0 and cool.stdout == "" and "no CPU is limited" in cool.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_full_disk_and_closed_reader(name):
    result = simulated(INTEL, "sh", "-c", f"{tool(name)} .1 1 >/dev/full")
    assert result.returncode == 1 and result.stderr.splitlines()[-1].endswith(
        "No space left on device"
    )
    result = simulated(INTEL, "sh", "-c", f"timeout 20 {tool(name)} .1 | head -1 | wc -l")
    assert result.stdout.strip() == "1" and "rror" not in result.stderr


def perf_tree(tmp_path, pmu="msr", events=("tsc", "mperf", "aperf"), **files):
    """A sysfs where every event of the PMU is the running kernel's msr/tsc/."""
    real = "/sys/bus/event_source/devices/msr/"
    if not os.path.exists(real + "events/tsc"):
        pytest.skip("this kernel has no msr/tsc/ event")
    for name in ["type", "format/event"] + ["events/" + event for event in events]:
        path = tmp_path / "sys/bus/event_source/devices" / pmu / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(open(real + ("events/tsc" if name.startswith("events/") else name)).read())
    for name, content in files.items():
        (tmp_path / "sys/bus/event_source/devices" / pmu / name).write_text(content)
    online = open("/sys/devices/system/cpu/online").read()
    for path, content in (
        ("proc/cpuinfo", open("/proc/cpuinfo").read()),
        ("sys/devices/system/cpu/online", online),
    ):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(content)
    for cpu in sysfs.cpu_list(online):
        topology = tmp_path / (f"sys/devices/system/cpu/cpu{cpu}/topology")
        topology.mkdir(parents=True, exist_ok=True)
        (topology / "physical_package_id").write_text("0")
        (topology / "core_id").write_text(f"{cpu}")
    return str(tmp_path)


def perf_counters(tmp_path):
    try:
        return clock.choose(sysfs.online_cpus(), "perf", root=perf_tree(tmp_path))
    except NotPermitted as exc:
        pytest.skip(str(exc))


def test_perf_reads_all_three_at_one_instant(tmp_path):
    """The TSC stands in for MPERF and APERF: what differs between them is the time between reading
    them.
    """
    counters = perf_counters(tmp_path)
    for cpu in sysfs.online_cpus():
        before = counters.read(cpu)
        for _ in range(200):
            counters.read(cpu)
        after = counters.read(cpu)
        row = clock_rate.between(cpu, before, after, None, None)
        assert row.ratio == pytest.approx(1, abs=0.01) and row.util == pytest.approx(1, abs=0.01)
        assert after.tsc - before.tsc > 1e5


def test_perf_measures_the_tsc(tmp_path):
    counters = perf_counters(tmp_path)
    first, second = counters.measure_tsc(0), counters.measure_tsc(0)
    assert first == pytest.approx(second, rel=0.05) and 100 < second < 20000
    base = base_clock.base_clocks(0, info.Processor("", None, None, set()), None, str(tmp_path))
    assert base == [] and counters.rate(None, 0) == counters.tsc_mhz()


def test_perf_without_the_privilege(tmp_path):
    """perf_event_paranoid is named, and that cpufreq answers instead only where there is one."""
    if os.geteuid():
        pytest.skip("only root can become somebody else")
    if int(open("/proc/sys/kernel/perf_event_paranoid").read()) < 1:
        pytest.skip("perf_event_paranoid lets anybody count")
    root = perf_tree(tmp_path)
    code = (
        f"import sys\nsys.path.insert(0, {os.path.join(readable_root(), 'lib')!r})\nfrom "
        "crisis.cpu import clock\nfrom crisis.errors import NotPermitted\n"
        f"try:\n    clock.choose([0], root={root!r})\nexcept NotPermitted as exc:\n    print(exc)"
    )
    for path in (root, os.path.dirname(root), os.path.dirname(os.path.dirname(root))):
        os.chmod(path, 0o755)
    result = subprocess.run(
        NOBODY + ["/usr/bin/python3", "-B", "-c", code], capture_output=True, text=True, cwd="/"
    )
    assert "perf_event_paranoid" in result.stdout and result.stdout.count("cannot") == 1, (
        result.stdout + result.stderr
    )


@pytest.mark.guest
def test_perf_follows_a_cpu_that_goes_and_comes(tmp_path):
    switch = "/sys/devices/system/cpu/cpu1/online"
    if SLOW == 1:
        pytest.skip("takes a CPU offline, which is done in the emulated guest only")
    counters = perf_counters(tmp_path)
    assert counters.read(1).tsc > 0
    try:
        with open(switch, "w") as f:
            f.write("0")
        assert counters.read(1) is None and counters.read(1) is None and counters.read(0).tsc > 0
    finally:
        with open(switch, "w") as f:
            f.write("1")
    assert counters.read(1).tsc > 0


def test_idle_states_of_cores_and_packages(tmp_path):
    """The TSC stands in for a state in which the CPU always is: 100%."""
    cpus = sysfs.online_cpus()
    perf_tree(
        tmp_path, "cstate_core", ("c6-residency", "c1-residency"), cpumask=sysfs.cpu_ranges(cpus)
    )
    perf_tree(tmp_path, "cstate_pkg", ("c2-residency",), cpumask=f"{cpus[0]}")
    root = perf_tree(tmp_path)
    counters, warnings = perf_counters(tmp_path), []
    idle = cstates.CStates(cpus, warnings.append, root)
    assert idle.columns == ["C1", "C6", "PC2"]
    before, first = idle.read(), {cpu: counters.read(cpu) for cpu in cpus}
    counters.measure_tsc(cpus[0])
    after, last = idle.read(), {cpu: counters.read(cpu) for cpu in cpus}
    for cpu in cpus:
        shares = idle.shares(cpu, before, after, first[cpu], last[cpu])
        assert list(shares) == ["C1", "C6", "PC2"] and not warnings
        assert all(share == pytest.approx(1, abs=0.1) for share in shares.values())
        assert set(idle.shares(cpu, {}, after, first[cpu], last[cpu]).values()) == {None}


def test_idle_states_without_their_pmu():
    if os.path.exists("/sys/bus/event_source/devices/cstate_core"):
        pytest.skip("this machine has the PMU")
    with pytest.raises(Unavailable):
        cstates.CStates([0], print)


def test_a_cpu_that_is_not_there():
    result = run("showboost", "-C", "99999", "1", "1")
    assert (
        result.returncode == 1 and result.stderr.count("\n") == 1 and "not online" in result.stderr
    )


def msr_driver():
    """The real driver of an x86 machine; loads it in the emulated guest."""
    if os.path.exists("/dev/cpu/0/msr"):
        return
    if SLOW == 1:
        pytest.skip("no /dev/cpu/0/msr; the driver is loaded in the emulated guest only")
    subprocess.call(["modprobe", "msr"])
    if not os.path.exists("/dev/cpu/0/msr"):
        pytest.skip("this kernel has no msr driver")


@pytest.mark.guest
def test_registers_of_each_cpu_by_the_real_driver():
    """0x1b holds the APIC base and which CPU booted; TSC_AUX holds what this test writes.

    It writes to one CPU only.
    """
    from crisis.cpu import msr

    msr_driver()
    registers = msr.Registers()
    cpus = sysfs.online_cpus()
    bases = [registers.read(cpu, 0x1B) for cpu in cpus]
    assert all(base & ~0xFFF == 0xFEE00000 for base in bases)
    assert [base >> 8 & 1 for base in bases] == [1] + [0] * (len(cpus) - 1)
    # QEMU's emulation answers 0 for what it does not know
    assert registers.read(0, 0x12345678) in (None, 0)
    aux = [registers.read(cpu, 0xC0000103) for cpu in cpus]
    assert [value & 0xFFF for value in aux] == cpus
    if SLOW == 1:
        return
    with open(f"/dev/cpu/{cpus[-1]}/msr", "r+b", buffering=0) as f:
        try:
            os.pwrite(f.fileno(), (0x5A5 | cpus[-1] << 12).to_bytes(8, sys.byteorder), 0xC0000103)
            assert registers.read(cpus[-1], 0xC0000103) == 0x5A5 | cpus[-1] << 12
            assert [registers.read(cpu, 0xC0000103) for cpu in cpus[:-1]] == aux[:-1]
        finally:
            os.pwrite(f.fileno(), aux[-1].to_bytes(8, sys.byteorder), 0xC0000103)
    assert [registers.read(cpu, 0xC0000103) for cpu in cpus] == aux


@pytest.mark.guest
def test_an_emulated_cpu_that_does_not_count():
    """Under emulation MPERF and APERF read 0, or fault: said so, and never 0 MHz."""
    if SLOW == 1:
        pytest.skip("this is not the emulated guest")
    msr_driver()
    result = run("showboost", "1", "1")
    assert result.returncode == 69 and result.stdout == "" and "APERF and MPERF" in result.stderr, (
        result.stderr
    )
    for name in COMMANDS[1:]:
        result = run(name)
        assert result.returncode == 69 and result.stdout == "", result.stdout + result.stderr
    result = subprocess.run(NOBODY + [tool("showboost")], capture_output=True, text=True, cwd="/")
    assert result.returncode == 77 and "CAP_SYS_RAWIO" in result.stderr
