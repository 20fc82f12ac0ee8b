# SPDX-License-Identifier: GPL-2.0-or-later
"""sysfs trees of machines that are not here, and what the commands make of them."""

import os

import pytest
from crisis import cli, clocks, msr, sensors
from crisis.errors import Unavailable
from crisis.kernel.sysfs import cpu_list
from helpers import fixture_tree, load


@pytest.fixture
def hybrid(tmp_path):
    return fixture_tree("hybrid", tmp_path)


@pytest.fixture
def zen4(tmp_path):
    return fixture_tree("zen4", tmp_path)


@pytest.fixture
def graviton(tmp_path):
    return fixture_tree("graviton", tmp_path)


@pytest.fixture
def arm(tmp_path):
    return fixture_tree("arm-server", tmp_path)


def test_cores_of_coretemp_by_threads(hybrid):
    found = sensors.sensors(hybrid)
    assert {s.source for s in found} == {"coretemp"}        # the zone of the same package adds nothing
    nearest = sensors.best(found, range(8))
    assert [nearest[cpu].read() for cpu in range(8)] == [71, 71, 64, 64, 58, 58, 57, 59]
    assert {s.limit for s in nearest.values()} == {100}
    package = [s for s in found if s.rank == 2]
    assert len(package) == 1 and package[0].cpus == tuple(range(8)) and package[0].package == 0


def test_coretemp_without_its_module_leaves_the_zone(hybrid):
    os.remove(hybrid + "sys/class/hwmon/hwmon2")
    found = sensors.sensors(hybrid)
    assert [(s.label, s.read(), s.cpus) for s in found] == [("x86_pkg_temp", 71, tuple(range(8)))]


def write(path, text):
    with open(path, "w") as f:
        f.write(text)


@pytest.mark.parametrize("online, titles", [("0", ["CPU0"]), ("0-1", ["CPU0", "CPU1"]), ("5", ["CPU5"])])
def test_cputemp_columns_of_one_core_online(hybrid, online, titles):
    """One CPU, both threads of a core, and not the first CPU: a column for each CPU, as with more of them."""
    write(hybrid + "sys/devices/system/cpu/online", online + "\n")
    reading = load("cputemp").Reading(sensors.sensors(hybrid), cpu_list(online))
    assert [title for title, _ in reading.columns] == titles
    assert [value for _, value in reading.columns] == [58 if online == "5" else 71] * len(titles)


def test_cputemp_columns_of_one_cpu_with_a_zone_of_its_own(tmp_path):
    root = str(tmp_path) + "/"
    for name, text in {"sys/devices/system/cpu/online": "0", "sys/class/thermal/thermal_zone0/type": "cpu0-thermal",
                       "sys/class/thermal/thermal_zone0/temp": "43000"}.items():
        os.makedirs(os.path.dirname(root + name), exist_ok=True)
        write(root + name, text + "\n")
    assert load("cputemp").Reading(sensors.sensors(root), [0]).columns == [("CPU0", 43)]


def test_cputemp_columns_of_one_cpu_of_a_package_with_one_sensor(zen4):
    """Tctl is the package's, however many CPUs are online: the driver's names stay."""
    write(zen4 + "sys/devices/system/cpu/online", "0\n")
    titles = [title for title, _ in load("cputemp").Reading(sensors.sensors(zen4), [0]).columns]
    assert not any("CPU" in title for title in titles) and any("Tctl" in title for title in titles)


def test_a_sensor_without_a_value(hybrid):
    os.remove(hybrid + "sys/class/hwmon/hwmon2/temp10_input")
    os.symlink("/nonexistent", hybrid + "sys/class/hwmon/hwmon2/temp10_input")
    reading = load("cputemp").Reading(sensors.sensors(hybrid), range(8))
    assert dict(reading.columns)["CPU4"] is None and dict(reading.columns)["CPU5"] == 58
    assert reading.average == pytest.approx((71 + 71 + 64 + 64 + 58 + 57 + 59) / 7) and reading.most == 71


def test_cputemp_columns_of_cores(hybrid):
    command = load("cputemp")
    args = command.get_parser().parse_args([])
    reading = command.Reading(sensors.sensors(hybrid), range(8))
    assert command.cells(args, None, reading) == [
        ("CPU%d" % cpu, "%d" % value) for cpu, value in enumerate((71, 71, 64, 64, 58, 58, 57, 59))]
    assert "Core_4" not in dict(reading.columns)


def test_k10temp_by_package(zen4):
    found = sensors.sensors(zen4)
    assert [(s.name(), s.read()) for s in found][:3] == [("P0:Tctl", 62.125), ("P0:Tccd1", 55.25), ("P0:Tccd3", 53.5)]
    nearest = sensors.best(found, range(4))
    assert [nearest[cpu].read() for cpu in range(4)] == [62.125, 62.125, 63.125, 63.125]
    command = load("cputemp")
    reading = command.Reading(found, range(4))
    # No sensor of a CPU alone: the columns are the sensors, by package.
    assert [title for title, _ in reading.columns][::3] == ["P0:Tctl", "P1:Tctl"] and len(reading.columns) == 6
    assert reading.average == 62.625


def test_tdie_before_tctl(zen4):
    base = zen4 + "sys/class/hwmon/hwmon0/"
    for name, content in ("temp2_label", "Tdie"), ("temp2_input", "35125"):
        with open(base + name, "w") as f:
            f.write(content)
    assert sensors.best(sensors.sensors(zen4), [0])[0].read() == 35.125


def test_cpufreq_and_boost(hybrid):
    assert sensors.cpufreq(4, hybrid) == {"base": 1600, "now": 3391, "min": 800, "max": 3600, "top": 3600}
    assert sensors.boost(hybrid) is True
    with open(hybrid + "sys/devices/system/cpu/intel_pstate/no_turbo", "w") as f:
        f.write("1")
    assert sensors.boost(hybrid) is False
    assert sensors.cpufreq(99, hybrid) == {}


def test_throttle_counts(hybrid):
    counts = sensors.throttle_counts(hybrid)
    assert counts[0]["core_throttle_count"] == 3 and counts[2]["core_throttle_count"] == 0
    assert counts[7]["package_throttle_total_time_ms"] == 50 and counts[7]["core_power_limit_count"] is None


def test_amd_has_no_throttle_counts(zen4):
    assert sensors.throttle_counts(zen4) == {}


def test_cpuhot_since_boot_and_between(hybrid):
    command = load("cpuhot")
    probe = command.Probe(hybrid)
    before = probe.read()
    assert command.why(before[0]) == ["core_throttle", "package_throttle"]
    args = command.get_parser().parse_args([])
    text = command.render_text(args, None, before).splitlines()
    assert text[0].split() == ["CPU", "PROCHOT", "Celsius", "Flags", "CORE_THR", "CORE_MS", "CORE_PL", "PKG_THR",
                               "PKG_MS", "PKG_PL", "WHY"]
    assert text[1].split() == ["0", "100", "71", "-", "3", "41", "-", "7", "50", "-", "core_throttle,package_throttle"]
    path = hybrid + "sys/devices/system/cpu/cpu2/thermal_throttle/"
    for name, value in ("core_throttle_count", 5), ("core_throttle_total_time_ms", 12):
        with open(path + name, "w") as f:
            f.write("%d\n" % value)
    delta = command.between(before, probe.read())
    assert (delta[2]["core_throttle_count"], delta[2]["core_throttle_total_time_ms"]) == (5, 12)
    assert delta[0]["core_throttle_count"] == 0 and delta[0]["core_power_limit_count"] is None
    hot = command.render_text(command.get_parser().parse_args(["--hot"]), 1.0, delta).splitlines()
    assert [line.split()[0] for line in hot[2:] if line] == ["2"]


def test_a_cpu_that_came_has_no_difference(hybrid):
    command = load("cpuhot")
    after = command.Probe(hybrid).read()
    assert command.between({}, after)[0]["core_throttle_count"] is None


def test_a_cpu_at_its_limit_is_hot():
    command = load("cpuhot")
    blank = dict.fromkeys(sensors.THROTTLE)
    assert command.why(dict(blank, flags=0, cooling=0, cooling_max=9, celsius=100, prochot=100)) == ["at_prochot"]
    assert command.why(dict(blank, flags=None, cooling=None, cooling_max=None, celsius=None, prochot=100)) == []


def test_zones_and_cooling_on_arm(arm):
    found = sensors.sensors(arm)
    assert [(s.source, s.label, s.read(), s.cpus, s.limit) for s in found] == [
        ("thermal zone", "cluster0-thermal", 78.5, (0, 1), 85), ("thermal zone", "cluster1-thermal", 68.5, (2, 3), 85)]
    assert sensors.cooling(arm) == {0: (3, 12), 1: (3, 12), 2: (0, 12), 3: (0, 12)}
    command = load("cpuhot")
    readings = command.Probe(arm).read()
    assert command.why(readings[1]) == ["cooling_3/12"] and command.why(readings[2]) == []
    assert readings[0]["prochot"] == 85


def test_nothing_on_graviton(graviton):
    assert sensors.sensors(graviton) == [] and sensors.cpufreq(0, graviton) == {}
    for call in (lambda: load("cputemp").find(graviton), lambda: load("cpuhot").Probe(graviton),
                 lambda: clocks.choose([0], root=graviton)):
        with pytest.raises(Unavailable):
            call()
    with pytest.raises(Unavailable, match="On ARM"):
        clocks.choose([0], root=graviton)


def set_counters(root, cpu, reference, delivered):
    with open(root + "sys/devices/system/cpu/cpu%d/acpi_cppc/feedback_ctrs" % cpu, "w") as f:
        f.write("ref:%d del:%d\n" % (reference, delivered))


def test_clock_by_cppc_on_arm(arm):
    command, told = load("showboost"), []
    counters = clocks.choose([0, 1], tell=told.append, root=arm)
    assert counters.name == "cppc" and any("not msr" in line for line in told)
    machine = command.Machine(0, counters, arm)
    assert (machine.base, machine.source, machine.set) == (2800, "CPPC nominal_freq", 2200)
    assert machine.distinct() == [3000]
    before = counters.read(0)
    set_counters(arm, 0, 10**9 + 5 * 10**8, 26 * 10**8 + 13 * 10**8)
    row = command.row(0, before, counters.read(0), machine.base, counters.rate(machine.base, 0), counters.known_rate)
    # 2.6 cycles for each of a reference that runs at 2800 * 100 / 280 = 1000 MHz
    assert row.mhz == pytest.approx(2600) and row.ratio == pytest.approx(2600 / 2800) and row.util is None


def test_clock_by_cppc_on_zen(zen4):
    command = load("showboost")
    counters = clocks.choose([0], root=zen4)
    machine = command.Machine(0, counters, zen4)
    assert (machine.base, machine.boost, machine.distinct()) == (3250, True, [3800])
    assert machine.text() == ("Base CPU MHz : 3250\nSet CPU MHz  : 3742\nTurbo MHz(s) : 3800\nTurbo Ratios : 116%\n\n")
    before = counters.read(0)
    set_counters(zen4, 0, 10**12 + 650 * 10**6, 12 * 10**11 + 748 * 10**6)
    after = counters.read(0)
    after.ns = before.ns + 10**9
    row = command.row(0, before, after, machine.base, counters.rate(machine.base, 0), counters.known_rate)
    assert row.mhz == pytest.approx(3250 * 748 / 650) and row.util == pytest.approx(.2)
    # a counter that went back is no clock
    set_counters(zen4, 0, 5, 5)
    assert command.row(0, after, counters.read(0), machine.base, machine.base).mhz is None


def test_clock_by_cpufreq_alone(hybrid):
    command = load("showboost")
    counters = clocks.choose([0], root=hybrid)
    assert counters.name == "cpufreq"
    sample = counters.read(4)
    row = command.row(4, sample, sample, 2100, None)
    assert row.mhz == 3391 and row.mcyc is None and row.util is None
    args = command.get_parser().parse_args([])
    widths, _ = command.heading(args, [])
    assert command.render_text(args, widths, [], [row]).split()[1:] == ["-", "-", "-", "161%", "3391"]


def test_base_of_each_core_type(hybrid):
    command = load("showboost")
    machine = msr.identify(hybrid)
    assert command.base_clocks(0, machine, None, hybrid) == [("cpufreq base_frequency", 2100)]
    assert command.base_clocks(4, machine, None, hybrid) == [("cpufreq base_frequency", 1600)]


class Registers:
    """What msr.Registers would read."""

    def __init__(self, values):
        self.values = values

    def read(self, cpu, address):
        return self.values.get(address)


def test_turbo_of_each_core_type(hybrid):
    command = load("showboost")
    registers = Registers({0x1ad: 0x2f2f2f3031, 0x650: 0x2424242426})
    machine = msr.identify(hybrid)
    assert command.turbo_steps(0, machine, registers, 2100, hybrid)[-1] == (1, 4900)
    assert command.turbo_steps(4, machine, registers, 1600, hybrid)[-1] == (1, 3800)


def test_mperf_goes_with_the_tsc_where_the_base_was_lowered():
    class Counters(clocks._Counters):
        def _read(self, cpu):
            self.n += 1
            return clocks.Sample(self.n * 10**9, self.n * 25 * 10**8, 1, 1)
    counters = Counters()
    counters.n = 0
    counters.read(0), counters.read(0)
    assert counters.tsc_mhz() == 2500
    assert counters.rate(2000, 0) == 2500 and counters.rate(2494, 0) == 2494 and counters.rate(None, 0) == 2500


class Script(clocks._Counters):
    """Counters whose samples are given: (ns, TSC, MPERF, APERF)."""

    def __init__(self, *samples):
        super().__init__()
        self.samples = iter(samples)

    def _read(self, cpu):
        return clocks.Sample(*next(self.samples))


def clock(command, counters, seconds, base=None, idle=False):
    """The Rows of CPU 0 between the samples."""
    rows, before = [], counters.read(0)
    for _ in range(seconds):
        after = counters.read(0)
        rows.append(command.row(0, before, after, base, counters.rate(base, 0), idle=idle))
        before = after
    return rows


G = 10**9


def second(n, tsc, worked):
    """The sample after n seconds; worked: seconds in C0, all at 1.5 times the rate of MPERF, 2 GHz."""
    return n * G, tsc, worked * 2 * G, worked * 3 * G


@pytest.mark.parametrize("base", [None, 2000, 1000])
@pytest.mark.parametrize("step", [-5 * 10**18, -10 * G, -3 * G, 9 * G, 10**18])
def test_after_a_step_of_the_tsc_its_rate_is_measured_anew(step, base):
    """Half of each second in C0; base: that of the header, which may be wrong.  The TSC is set in the fourth second."""
    start = 10**19
    counters = Script(*[second(n, start + 2 * G * n + (step if n > 3 else 0), n / 2) for n in range(9)])
    rows = clock(load("showboost"), counters, 8, base)
    for number, row in enumerate(rows, 1):
        # MPERF and APERF go on, but what share of the time their counts are is unknown while the TSC is set.
        assert row.util == (None if number == 4 else pytest.approx(.5)), number
        assert row.mhz == pytest.approx(3000) and row.ratio == pytest.approx(1.5 * 2000 / (base or 2000)), number


def test_another_rate_of_the_tsc_after_a_step():
    """As after a migration to a machine with a faster TSC: two intervals, and the new rate is taken."""
    samples = [(n * G, 10**16 + 2 * G * n, 2 * G * n, 2 * G * n) for n in range(4)]
    samples += [(n * G, 3 * G * n, 10**12 + 3 * G * n, 10**12 + 3 * G * n) for n in range(4, 9)]
    rows = clock(load("showboost"), Script(*samples), 8)
    assert [row.mhz for row in rows[:3] + rows[4:]] == [2000] * 3 + [3000] * 4


def test_counters_that_start_again_with_the_tsc():
    """As after suspend: all three go back at once."""
    samples = [second(n, 10**16 + 2 * G * n, 1000 + n / 4) for n in range(4)]
    samples += [second(n, 2 * G * (n - 4), (n - 4) / 4) for n in range(4, 8)]
    rows = clock(load("showboost"), Script(*samples), 7)
    assert [row.util for row in rows] == [.25] * 3 + [None] + [.25] * 3
    assert [row.mhz for row in rows] == [pytest.approx(3000)] * 3 + [None] + [pytest.approx(3000)] * 3
    assert rows[3].mcyc is None and rows[3].acyc is None


def test_a_late_reading_is_no_step():
    counters = Script(*[(n * G + (5 * 10**7 if n == 2 else 0), 2 * G * n, 1, 1) for n in range(4)])
    assert not any(counters.read(0).stepped for _ in range(4))


def test_an_interval_idle_throughout_has_no_utilization_and_no_clock():
    command = load("showboost")
    samples = second(0, 0, 1), second(1, 2 * G, 1), second(2, 4 * G, 2)
    stuck, _ = clock(command, Script(*samples), 2)
    assert stuck.util is stuck.mcyc is None             # busy, by the kernel's account
    idle, busy = clock(command, Script(*samples), 2, idle=True)
    assert (idle.mcyc, idle.acyc, idle.util, idle.mhz, idle.ratio) == (0, 0, 0, None, None) and busy.util == 1
    args = command.get_parser().parse_args([])
    widths, _ = command.heading(args, [])
    assert command.render_text(args, widths, [], [idle]).split()[1:] == ["0", "0", "0%", "-", "-"]
    low, mean, _ = command.summary([idle, busy])
    assert (low.util, mean.util, mean.mhz) == (0, .5, 3000)


def test_collect_reports_a_step_and_no_idle_cpu_as_offline(monkeypatch):
    command, notes = load("showboost"), []
    samples = [second(n, 10**16 + 2 * G * n - (10**15 if n > 2 else 0), max(n, 1)) for n in range(6)]
    counters = Script(*samples)
    counters.name = "perf"
    monkeypatch.setattr(command.clocks, "choose", lambda *args: counters)
    monkeypatch.setattr(command, "Machine", lambda cpu, counters: type("M", (), {"base": 2000, "cpu": cpu}))
    monkeypatch.setattr(command.cli, "ticks", lambda interval, count: iter([1.0] * 5))
    monkeypatch.setattr(command.cli, "note", notes.append)
    ticks = iter([7, 7, 8, 9, 10, 11])                  # of the first second none
    monkeypatch.setattr(command.sensors, "busy_ticks", lambda: {0: next(ticks)})
    found = [row.util for _, (row,) in list(command.collect(command.get_parser().parse_args([])))[1:]]
    assert found == [0, 1, None, 1, 1]
    assert notes == ["the TSC of CPU 0 was set: its rate is measured anew"]


def test_busy_ticks(tmp_path):
    (tmp_path / "proc").mkdir()
    assert sensors.busy_ticks(str(tmp_path)) == {}
    (tmp_path / "proc/stat").write_text("cpu  9 9 9 9 9 9 9 9 9 9\ncpu0 1 2 3 400 50 6 7 8 9 9\n"
                                        "cpu12 1 0 0 400 0 0 0 0 0 0\nintr 5\n")
    assert sensors.busy_ticks(str(tmp_path)) == {0: 27, 12: 1}


def test_summary_weighs_the_mean_clock_by_work():
    command = load("showboost")
    rows = [command.Row(0, 900, 1800, .9, 2.0, 4000.0), command.Row(1, 100, 100, .1, 1.0, 2000.0), command.Row(2)]
    low, mean, high = command.summary(rows)
    assert (low.mhz, mean.mhz, high.mhz) == (2000, 3800, 4000)
    assert (low.util, mean.util, high.util) == (.1, .5, .9)
    assert mean.ratio == pytest.approx(1.9)


def test_parsers_take_an_interval_or_none():
    assert load("cputemp").get_parser().parse_args([]).interval is None
    assert load("showboost").get_parser().parse_args([]).interval == 1
    assert "one report now" in cli.parser("x", every=0).format_help()


def test_a_hostile_label_stays_text(zen4):
    with open(zen4 + "sys/class/hwmon/hwmon0/temp3_label", "w") as f:
        f.write("\x1b[31m T\n")
    command = load("cputemp")
    args = command.get_parser().parse_args([])
    reading = command.Reading(sensors.sensors(zen4), range(4))
    shown = command.render_list(reading) + " ".join(title for title, _ in command.cells(args, None, reading))
    assert "\x1b" not in shown and "\\x1b[31m" in shown
    assert command.render_json(None, None, reading).isascii()
