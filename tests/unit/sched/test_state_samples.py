# SPDX-License-Identifier: GPL-2.0-or-later
"""States by samples of /proc, of made-up threads."""

import builtins
import os
from types import SimpleNamespace

import pytest

from crisis.errors import Error, NotPermitted
from crisis.kernel import call_numbers
from crisis.sched import state_samples
from crisis.sched.states import STATES

FUTEX, POLL, READ = (call_numbers.numbers("x86_64")[name][0] for name in ("futex", "poll", "read"))


class Machine:
    """Threads as /proc has them, and a clock."""

    def __init__(self, monkeypatch):
        self.threads, self.now, self.modes = {}, 1000.0, {}
        real = builtins.open

        def opened(path, *arguments, **options):
            if isinstance(path, str) and path.startswith("/proc/7"):
                return real(self.file(path), *arguments, **options)
            return real(path, *arguments, **options)

        self.directory = monkeypatch.tmp_path
        monkeypatch.setattr(builtins, "open", opened)
        monkeypatch.setattr(state_samples.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(state_samples.time, "monotonic_ns", lambda: int(self.now * 1e9))
        monkeypatch.setattr(state_samples.proc, "check_process", lambda pid: None)
        exists, listed, stat = os.path.exists, os.listdir, os.stat
        monkeypatch.setattr(
            os.path,
            "exists",
            lambda path: (
                int(path[6:]) in self.threads
                if str(path).startswith("/proc/7") and path[6:].isdigit()
                else exists(path)
            ),
        )
        monkeypatch.setattr(
            os,
            "listdir",
            lambda path: list(map(str, self.threads)) if path == "/proc/70/task" else listed(path),
        )
        monkeypatch.setattr(
            os,
            "stat",
            lambda path, **more: (
                SimpleNamespace(st_mode=self.modes[path])
                if path in self.modes
                else stat(path, **more)
            ),
        )
        names = call_numbers.names("x86_64")
        monkeypatch.setattr(state_samples.call_numbers, "names", lambda: names)

    def file(self, path):
        _, _, tid, name = path.split("/")
        content = self.threads.get(int(tid), {}).get(name)
        if content is None:
            raise FileNotFoundError(path)
        if content == "denied":
            raise PermissionError(path)
        made = self.directory / f"{tid}-{name}"
        made.write_text(content)
        return made

    def set(self, tid, call, state="S", times=(0, 0), ran=0, waited=0, runs=1, flags=0, args=()):
        words = [f"{word:#x}" for word in (*args, *[0] * 6)][:6]
        syscall = call if isinstance(call, str) else f"{call} {' '.join(words)} 0x1 0x2"
        fields = ["0"] * 50
        fields[0], fields[6], fields[11], fields[12] = state, str(flags), *map(str, times)
        self.threads[tid] = {
            "syscall": syscall + "\n",
            "stat": f"{tid} (na) me) {' '.join(fields)}\n",
            "schedstat": f"{ran} {waited} {runs}\n",
        }


@pytest.fixture
def machine(monkeypatch, tmp_path):
    monkeypatch.tmp_path = tmp_path
    return Machine(monkeypatch)


def sampler(**options):
    return state_samples.Sampler(
        SimpleNamespace(**{"pid": 70, "tid": None, "cgroup": None, "idle_after": 100.0, **options})
    )


def sampled(machine, found, samples, change=lambda i: None):
    """{tid: {state: percent}} after a number of samples, one in 10 ms."""
    for i in range(samples):
        machine.now += 0.01
        change(i)
        found.read()
    sums, calls, lost = found.take()
    assert calls == {} and lost == {}
    return {
        one.tid: {state: round(100 * ns / sum(one.ns)) for state, ns in zip(STATES, one.ns) if ns}
        for one in sums
    }


@pytest.mark.parametrize(
    "call, state, args, mode, expected",
    [
        (POLL, "S", (), None, "idle"),
        (FUTEX, "S", (0x7F00, 0x80, 2), None, "lock"),
        (READ, "S", (5,), 0o140777, "net"),
        (READ, "S", (5,), 0o010600, "idle"),
        (READ, "S", (5,), 0o100600, "other"),
        (READ, "D", (5,), 0o100600, "disk"),
        ("-1 0x1 0x2", "D", (), None, "disk"),
        ("-1 0x1 0x2", "S", (), None, "other"),
        (16, "S", (3, 0xAE80), None, "idle"),
        (56, "D", (), None, "idle"),
        (900, "S", (), None, "other"),
        (READ, "T", (5,), 0o140777, "other"),
    ],
)
def test_a_thread_that_stays(machine, call, state, args, mode, expected):
    machine.modes["/proc/71/fd/5"] = mode
    machine.set(71, call, state, args=args)
    assert sampled(machine, sampler(), 20) == {71: {expected: 100}}


def test_the_time_on_a_cpu_is_measured_and_the_rest_divided(machine):
    machine.set(71, POLL)
    found = sampler()

    def change(i):
        nanosleep = call_numbers.numbers("x86_64")["nanosleep"][0]
        call = "running" if i % 4 == 0 else nanosleep if i % 4 == 1 else POLL
        machine.set(71, call, times=(10, 10), ran=200_000_000, waited=200_000_000)

    shares = sampled(machine, found, 100, change)
    assert shares == {71: {"user": 10, "sys": 10, "runq": 20, "sleep": 20, "idle": 40}}


def test_a_long_wait_for_a_semaphore_is_idle_from_its_beginning(machine):
    machine.set(71, FUTEX, args=(0x7F00, 0x189, 0))
    found = sampler()
    assert sampled(machine, found, 5) == {71: {"lock": 100}}
    found = sampler()
    assert sampled(machine, found, 50) == {71: {"idle": 100}}


def test_short_waits_for_a_semaphore_are_for_a_lock(machine):
    found = None

    def change(i):
        machine.set(71, FUTEX, args=(0x7F00, 0x189, 0), runs=i // 4)

    change(0)
    found = sampler()
    assert sampled(machine, found, 60, change) == {71: {"lock": 100}}


def test_a_kernel_thread_is_idle_or_waits(machine):
    machine.set(71, 0, flags=0x200000, state="I")
    machine.set(72, 0, flags=0x200000, state="D")
    assert sampled(machine, sampler(), 10) == {71: {"idle": 100}, 72: {"disk": 100}}


def test_threads_that_begin_and_end(machine):
    machine.set(71, POLL)
    found = sampler()

    def change(i):
        if i == 10:
            machine.set(72, POLL)
        if i == 50:
            del machine.threads[71]

    assert sampled(machine, found, 100, change)[72] == {"idle": 100}
    assert sampled(machine, found, 10) == {72: {"idle": 100}}


def test_where_no_thread_may_be_seen(machine):
    machine.set(71, POLL)
    machine.threads[71]["syscall"] = "denied"
    with pytest.raises(NotPermitted, match="CAP_SYS_PTRACE"):
        sampler()


def test_a_process_that_is_not_there(monkeypatch):
    with pytest.raises(Error, match="no such process"):
        sampler(pid=1 << 30)


def test_it_takes_no_more_than_a_fifth_of_the_time(machine, monkeypatch):
    machine.set(71, POLL)
    found, read = sampler(), []

    def slow(self, thread, words):
        machine.now += 0.02
        read.append(machine.now)
        return STATES.index("idle")

    monkeypatch.setattr(state_samples.Sampler, "_state", slow)
    begin = machine.now
    for _ in range(100):
        machine.now += 0.01
        found.read()
    assert 0.1 < 0.02 * len(read) / (machine.now - begin) < 0.21
    found.take()
    assert "samples of /proc a second" in found.title
