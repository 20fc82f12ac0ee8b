# SPDX-License-Identifier: GPL-2.0-or-later
"""The timed loop: the clock by made-up times of runs, and the machine code."""

import mmap
import shutil
import subprocess

import pytest

from crisis.cpu import clock, clock_rate, loop
from crisis.errors import Unavailable


def runs(mhz, pairs=20, call_ns=300, slower=()):
    """Times of pairs of runs at this clock; slower: {number of a pair: factor}."""
    found = []
    for number in range(pairs):
        factor = dict(slower).get(number, 1)
        found.append(
            tuple(
                round(factor * (loop.CHAIN * rounds * 1e3 / mhz + call_ns))
                for rounds in (loop.SHORT, loop.LONG)
            )
        )
    return found


@pytest.mark.parametrize("mhz", [220, 800, 2100, 3791, 4100, 5700, 7900])
def test_runs_that_agree(mhz):
    assert loop.rate(runs(mhz, call_ns=1200 if mhz < 1000 else 300)) == pytest.approx(mhz, 1e-3)


def test_delayed_runs_do_not_count():
    """Interrupts and a busy hyperthread only make runs longer."""
    slower = {n: 1.1 + n / 10 for n in range(20) if n not in (4, 9, 15)}
    assert loop.rate(runs(4100, slower=slower.items())) == pytest.approx(4100, 1e-3)


@pytest.mark.parametrize("spread, known", [(0.005, True), (0.009, True), (0.011, False)])
def test_the_best_runs_disagree(spread, known):
    """Each a little slower than the one before, so that the best three differ by twice that."""
    slower = {n: (1 + spread) ** n for n in range(20)}
    found = loop.rate(runs(3000, slower=slower.items()))
    assert (found == pytest.approx(3000, 1e-2)) if known else found is None


@pytest.mark.parametrize("mhz", [1, 150, 195, 8100, 30000])
def test_no_cpu_has_such_a_clock(mhz):
    """The cost of the call is in proportion, so that nothing else is wrong."""
    assert loop.rate(runs(mhz, call_ns=round(1e6 / mhz))) is None


def test_a_delay_of_all_runs_of_one_length_is_noticed():
    """1 us of each short run would make the clock look 6 % faster, of each long run slower."""
    for delays in (900, 0), (0, 900):
        delayed = [tuple(time + delay for time, delay in zip(pair, delays)) for pair in runs(4100)]
        found = loop.rate(delayed)
        assert found is None or found == pytest.approx(4100, 0.06)
    assert loop.rate([(short + 900, long) for short, long in runs(4100)]) is None


def test_too_few_runs_and_runs_of_no_length():
    assert loop.rate([]) is None and loop.rate(runs(4000)[:2]) is None
    assert loop.rate([(5000, 5000)] * 20) is None and loop.rate([(9000, 5000)] * 20) is None
    assert loop.rate([(0, 0)] * 20) is None


def test_translated_where_each_new_chain_is_slow():
    times = iter([700000] * 8)
    assert loop.translated(lambda: next(times)) and not list(times)
    times = iter([700000, 2000000, 1400, 700000])  # interrupted twice
    assert not loop.translated(lambda: next(times)) and len(list(times)) == 1


def test_an_architecture_without_a_loop():
    for machine in "riscv64", "ppc64le", "i686", "":
        with pytest.raises(Unavailable, match="this architecture"):
            loop.additions(machine or "unknown")


@pytest.mark.parametrize(
    "machine, options, first, add, jump",
    [
        (
            "x86_64",
            ["-m", "i386:x86-64"],
            ["xor eax,eax", "mov edx,0x1"],
            "add rax,rdx",
            ["dec rdi", "jne 0x7", "ret"],
        ),
        (
            "aarch64",
            ["-m", "aarch64"],
            ["mov x1, #0x0", "mov x2, #0x1"],
            "add x1, x1, x2",
            ["subs x0, x0, #0x1", "b.ne 0x8", "mov x0, x1", "ret"],
        ),
    ],
)
def test_machine_code_by_the_disassembler(tmp_path, machine, options, first, add, jump):
    """The one jump leads to the first addition."""
    code = loop.additions(machine)
    assert len(code) <= mmap.PAGESIZE + 64
    objdump = next(
        (name for name in (f"{machine}-linux-gnu-objdump", "objdump") if shutil.which(name)), None
    )
    if objdump is None:
        pytest.skip("there is no objdump")
    path = tmp_path / "code"
    path.write_bytes(code)
    if machine == "x86_64":
        options = [*options, "-M", "intel"]
    result = subprocess.run(
        [objdump, "-D", "-b", "binary", *options, str(path)], capture_output=True, text=True
    )
    if result.returncode:
        pytest.skip(f"{objdump} does not know {machine}: {result.stderr.strip()}")
    lines = [line.split("\t") for line in result.stdout.splitlines() if line.count("\t") >= 2]
    found = [" ".join(" ".join(line[2:]).split("//")[0].split("<")[0].split()) for line in lines]
    assert found[: len(first)] == first and found[-len(jump) :] == jump
    assert found[len(first) : -len(jump)] == [add] * loop.CHAIN


class Clocks:
    """A Timer of made-up clocks: {CPU: MHz or None}."""

    has_tsc = True
    translated = False

    def __init__(self, values):
        self.values, self.pairs, self.ns = values, [], 10**9

    def instant(self):
        self.ns += 10**8
        return self.ns, 26 * self.ns // 10

    def measure(self, cpu, pairs):
        self.pairs.append(pairs)
        return self.values.get(cpu)


def timed(monkeypatch, values, cpus=(0,)):
    timer = Clocks(values)
    monkeypatch.setattr(loop, "Timer", lambda: timer)
    return clock.choose(cpus, "loop"), timer


def test_the_loop_is_the_last_source():
    assert clock.SOURCES[-1] == "loop" and len(set(clock.SOURCES)) == 5


def test_rate_and_base_clock_of_a_guest(monkeypatch):
    counters, _ = timed(monkeypatch, {0: 3900.0})
    assert counters.name == "loop" and not counters.counts and counters.tsc
    before, after = counters.read(0), counters.read(0)
    assert counters.tsc_mhz() == pytest.approx(2600)
    row = clock_rate.between(0, before, after, 2600, None, idle=True)
    assert (row.mhz, row.ratio, row.util, row.mcyc) == (3900, 1.5, None, None)


def test_a_clock_that_is_not_known_is_none_and_not_idle(monkeypatch):
    counters, _ = timed(monkeypatch, {0: None})
    for idle in False, True:
        row = clock_rate.between(0, counters.read(0), counters.read(0), 2600, None, idle=idle)
        assert row.unknown and row.mcyc is None


def test_the_first_interval_needs_no_clock_at_its_start(monkeypatch):
    counters, timer = timed(monkeypatch, {0: None})
    before, timer.values = counters.read(0), {0: 3000.0}
    assert clock_rate.between(0, before, counters.read(0), None, None).mhz == 3000


@pytest.mark.parametrize("cpus, pairs", [(1, 32), (2, 32), (3, 32), (4, 27), (6, 18), (192, 16)])
def test_cost_is_bounded(monkeypatch, cpus, pairs):
    """0.5 % of one CPU in each second, shared among the CPUs, while that is enough to agree."""
    counters, timer = timed(monkeypatch, {0: 3000.0}, range(cpus))
    now = [10**9]
    monkeypatch.setattr(clock.time, "monotonic_ns", lambda: now[0])
    timer.instant = lambda: (now[0], None)
    counters.read(0)
    now[0] += 10**9
    counters.read(0)
    assert timer.pairs[1] == pairs
    assert timer.pairs[1] * loop.PAIR_NS < 0.01 * 10**9


def test_another_machine_cannot_be_measured(graviton):
    with pytest.raises(Unavailable, match="the machine that it runs on"):
        clock.choose([0], "loop", root=graviton)


@pytest.mark.parametrize("fixture", ["zen4", "hybrid"])
def test_sources_with_a_driver_come_first(request, fixture, monkeypatch):
    monkeypatch.setattr(loop, "Timer", lambda: pytest.fail("the loop is not needed"))
    assert clock.choose([0], root=request.getfixturevalue(fixture)).name in ("cppc", "cpufreq")
