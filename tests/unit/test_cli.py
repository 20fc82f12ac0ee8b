# SPDX-License-Identifier: GPL-2.0-or-later
"""The frame of every command: the interval clock, waiting, signals, output and the exit, on a
made-up machine.
"""

import contextlib
import errno
import os
import signal
import subprocess
import sys
import time
import types

import pytest

import world
from crisis import cli
from crisis.errors import Error, NotPermitted, Stopped, Unavailable, Usage
from helpers import ROOT, SLOW


def command(main):
    """A command that is only its main(); it gets the World as args.world."""
    return types.SimpleNamespace(
        main=main, get_parser=lambda: cli_now().parser("Test.", cache=False)
    )


def cli_now():
    """The module that the child has loaded anew."""
    import sys

    return sys.modules["crisis.cli"]


@pytest.fixture
def run():
    """run(main, *arguments): the Result of a command toy with that main()."""

    def call(main, *arguments, trees=("machine",), seam=None, stop=None):
        with world.scratch() as directory:
            return world.run(command(main), "toy", arguments, directory, trees, seam, stop)

    return call


def ticks(*arguments, body=lambda number: None, pids=None):
    """A main() that writes the seconds of each interval and how much has gone by; body: what it
    does in each.
    """

    def main(args):
        cli = cli_now()
        begin = time.monotonic()
        ends = None if pids is None else cli.Ends(pids)
        for number, seconds in enumerate(cli.ticks(*arguments, ends=ends)):
            cli.out(f"{seconds:g} {time.monotonic() - begin:g}\n")
            body(number)

    return main


def intervals(result):
    """[(seconds, when)] that such a main() has written."""
    assert (result.status, result.err.replace("toy: process 185 has ended\n", "")) == (0, "")
    return [tuple(map(float, line.split())) for line in result.out.splitlines()]


# ticks()


def test_ticks_follow_deadlines_without_drift(run):
    assert intervals(run(ticks(1, 4, body=lambda number: time.sleep(0.3)))) == [
        (1, 1),
        (1, 2),
        (1, 3),
        (1, 4),
    ]


def test_a_deadline_that_was_missed_by_a_whole_interval_is_skipped(run):
    slow = ticks(1, 5, body=lambda number: time.sleep(2.5 if number == 0 else 0))
    assert intervals(run(slow)) == [(1, 1), (2.5, 3.5), (1, 4.5), (1, 5.5), (1, 6.5)]


def test_a_deadline_missed_by_less_is_kept(run):
    late = ticks(1, 4, body=lambda number: time.sleep(1.5 if number == 0 else 0))
    assert intervals(run(late)) == [(1, 1), (1.5, 2.5), (0.5, 3), (1, 4)]


def test_an_interval_longer_than_poll_can_wait(run):
    assert intervals(run(ticks(5e6, 1))) == [(5e6, 5e6)]


@pytest.mark.parametrize(
    "interval, duration, expected",
    [
        (1, 2.5, [(1, 1), (1, 2), (0.5, 2.5)]),
        (None, 2.5, [(2.5, 2.5)]),
        (1, 2, [(1, 1), (1, 2)]),
        (5, 2, [(2, 2)]),
    ],
)
def test_a_duration_cuts_the_last_interval(run, interval, duration, expected):
    assert intervals(run(ticks(interval, None, duration))) == expected


def test_a_count_ends_before_the_duration(run):
    assert intervals(run(ticks(1, 1, 9))) == [(1, 1)]


@pytest.mark.parametrize(
    "interval, expected", [(1, [(1, 1), (0.5, 1.5)]), (None, [(1.5, 1.5)]), (9, [(1.5, 1.5)])]
)
def test_a_stop_yields_what_there_is_with_its_true_length(run, interval, expected):
    assert intervals(run(ticks(interval), stop=1.5)) == expected


def test_a_stop_during_the_work_on_a_report_makes_it_the_last(run):
    assert intervals(run(ticks(1, body=lambda number: time.sleep(0.7)), stop=1.5)) == [(1, 1)]


def test_the_end_of_the_last_process_ends_the_last_interval(run):
    result = run(ticks(1, pids=[185]), trees=("machine", "process-ends"))
    assert (
        intervals(result) == [(1, 1), (0.5, 1.5)] and result.err == "toy: process 185 has ended\n"
    )


def test_one_process_that_is_left_keeps_it_going(run):
    result = run(ticks(1, 3, pids=[185, 190]), trees=("machine", "process-ends"))
    assert intervals(result) == [(1, 1), (1, 2), (1, 3)] and result.err == ""


def test_processes_that_had_ended_before(run):
    def main(args):
        cli = cli_now()
        ends = cli.Ends([998, 999])
        cli.out(f"{ends.over} {sorted(ends.gone)} {list(cli.ticks(0.5, 1, ends=ends))}\n")

    result = run(main)
    assert (
        result.out == "True [998, 999] [0.0]\n"
        and result.err == "toy: the 2 processes have ended\n"
    )


def test_several_ends_in_one_note(run):
    def ending(machine, module):
        machine.at(
            1, lambda: [machine._change([(f"proc/{pid}", None, False)]) for pid in (185, 190)]
        )

    result = run(ticks(5, pids=[185, 190]), seam=ending)
    assert result.out == "1 1\n" and result.err == "toy: the 2 processes have ended\n"


# wait()


def test_wait_returns_what_is_readable(run):
    def main(args):
        cli = cli_now()
        (one, to_one), (two, _) = os.pipe(), os.pipe()
        os.write(to_one, b"x")
        cli.out("%s " % (cli.wait(5, [one, two]) == [one]))
        cli.out(f"{time.monotonic():g} ")
        cli.out(f"{cli.wait(0.25, [two])} {time.monotonic():g}\n")

    assert run(main).out == "True 1000 [] 1000.25\n"


def test_a_stop_ends_wait_and_all_that_follow(run):
    def main(args):
        cli = cli_now()
        cli.out(f"{cli.wait(None)} {time.monotonic():g} {cli.stopping()}\n")
        cli.out(f"{cli.wait(5)} {time.monotonic():g}\n")

    assert run(main, stop=2).out == "[] 1002 True\n[] 1002\n"


def test_a_reader_that_has_gone_is_a_stop(run):
    def main(args):
        cli = cli_now()
        readable, writable = os.pipe()
        kept = os.dup(1)
        os.dup2(writable, 1)
        os.close(readable)
        found = cli.wait(5)
        os.dup2(kept, 1)
        cli.out(f"{found} {cli.stopping()} {time.monotonic():g}\n")

    assert run(main).out == "[] True 1000\n"


# run() and the exit


@pytest.mark.parametrize(
    "raised, status, text",
    [
        (None, 0, ""),
        (3, 3, ""),
        (Error("cannot x: y"), 1, "toy: cannot x: y\n"),
        (Usage("a\nb\x1b"), 2, "toy: a\\x0ab\\x1b\n"),
        (Unavailable("no z"), 69, "toy: no z\n"),
        (NotPermitted("not you"), 77, "toy: not you\n"),
        (Stopped(), 0, ""),
        (KeyboardInterrupt(), 0, ""),
        (SystemExit(5), 5, ""),
        (SystemExit(), 0, ""),
        (OSError(errno.EIO, "Input/output error", "/x\n"), 1, "toy: /x\\x0a: Input/output error\n"),
        (OSError("odd"), 1, "toy: odd\n"),
        (MemoryError(), 1, "toy: out of memory\n"),
        (
            ValueError("v"),
            1,
            "toy: internal error: ValueError: v. Run with --debug and report it\n",
        ),
        (
            OSError(errno.ENFILE, "x"),
            1,
            "toy: cannot open another file: the system-wide limit is reached. Raise it with "
            "sysctl fs.file-max\n",
        ),
    ],
)
def test_status_and_message(run, raised, status, text):
    def main(args):
        if isinstance(raised, BaseException):
            raise raised
        return raised

    result = run(main)
    assert (result.status, result.out, result.err) == (status, "", text)


def test_the_limit_of_open_files_is_named(run):
    def main(args):
        import resource

        import crisis.table  # noqa: F401  (as every command does at its beginning)

        resource.setrlimit(
            resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
        )
        while True:
            os.dup(0)

    assert run(main).err == (
        "toy: cannot open another file: the limit of 64 on open files is reached. "
        "Raise it with ulimit -Sn\n"
    )


def test_debug_shows_where_and_changes_no_status(run):
    def main(args):
        try:
            {}["a\x1b"]
        except KeyError:
            raise NotPermitted("not you")  # noqa: B904

    result = run(main, "--debug")
    assert result.status == 77 and result.err.endswith("toy: not you\n")
    # Of what the error was made from, nothing.
    assert (
        result.err.count("Traceback") == 1
        and "KeyError" not in result.err
        and "\x1b" not in result.err
    )


def test_arguments_reach_main_and_version_does_not(run):
    def main(args):
        cli_now().out(f"{args.interval} {args.count} {args.verbose}\n")

    assert run(main, "-v", "2", "3").out == "2.0 3 True\n"
    result = run(main, "--version")
    assert result.status == 0 and result.out.startswith("toy ") and result.err == ""
    assert run(main, "2", "3", "4").status == 2


def test_the_second_signal_ends_a_command_that_does_not_stop(run):
    def main(args):
        while True:
            time.sleep(0.1)

    again = run(main, seam=lambda machine, module: machine.at(2.5, machine.interrupt), stop=1)
    assert again.status == -signal.SIGINT

    # timeout(1) signals the process and then its group: within a second both are one.
    def ends(args):
        cli = cli_now()
        while not cli.stopping():
            time.sleep(0.1)
        time.sleep(0.3)
        cli.out("done\n")

    at_once = run(ends, seam=lambda machine, module: machine.at(1.05, machine.interrupt), stop=1)
    assert (at_once.status, at_once.out) == (0, "done\n")


# Input and output


def test_verbose_notes_and_titles(run):
    def main(args):
        cli = cli_now()
        cli.verbose("a detail")
        cli.note("a\tnote")
        cli.title("TITLE")
        cli.out("é\udcff\n")

    assert run(main)[1:] == ("é\\udcff\n", "toy: a\\x09note\nTITLE\n")
    assert run(main, "-v").err == "toy: a detail\ntoy: a\\x09note\nTITLE\n"


def test_a_failed_write_is_an_error(run):
    def main(args):
        os.dup2(os.open("/dev/full", os.O_WRONLY), 1)
        cli_now().out("x\n")

    result = run(main)
    assert (result.status, result.err) == (1, "toy: write error: No space left on device\n")


def full_pipe():
    """Put a pipe that nobody reads in the place of stdout, and fill it."""
    readable, writable = os.pipe()
    os.set_blocking(writable, False)
    try:
        while True:
            os.write(writable, b"x" * 4096)
    except BlockingIOError:
        os.set_blocking(writable, True)
    os.dup2(writable, 1)
    return readable


def test_a_stop_leaves_a_full_pipe_a_moment_and_then_the_command_ends(run):
    def main(args):
        cli = cli_now()
        kept = full_pipe()
        try:
            cli.out("y" * 10000)
        except KeyboardInterrupt:
            cli.title(f"{time.monotonic() - 1000:.1f}")
            raise
        assert kept

    result = run(main, stop=1)
    assert (result.status, result.err) == (0, "1.2\n")


def test_a_pipe_that_is_read_again_takes_all(run):
    def main(args):
        cli, readable = cli_now(), full_pipe()
        cli.write(1, b"y" * 3000)
        cli.title(f"{os.read(readable, 1 << 20).count(b'y')}")

    def drained(machine, module):
        # The reader wakes up after two seconds.
        machine.at(2, lambda: [os.read(fd, 1 << 16) for fd in pipes()])

    def pipes():
        """The reading ends of pipes with data in them."""
        import select

        found = []
        for name in os.listdir("/proc/self/fd"):
            poll = machine_poll()
            try:
                poll.register(int(name), select.POLLIN)
                link = os.readlink("/proc/self/fd/" + name)
            except OSError:
                continue
            if link.startswith("pipe:") and any(event & select.POLLIN for _, event in poll.poll(0)):
                found.append(int(name))
        return found

    import select

    machine_poll = select.poll
    assert run(main, seam=drained).err == "3000\n"


def test_input_that_stops(run):
    def main(args):
        cli = cli_now()
        readable, writable = os.pipe()
        os.dup2(readable, 0)
        os.write(writable, b"one\ntwo")
        with cli.reader("-") as f:
            cli.out(
                f"{f.readline()!r} {f.readline()!r} {cli.stopped_at_input()} {cli.stopping()}\n"
            )

    assert run(main, stop=1).out == "b'one\\n' b'two' True True\n"


def test_input_that_ends(run):
    def main(args):
        cli = cli_now()
        with open("list", "w") as f:
            f.write("one\n")
        with cli.reader("list") as f:
            cli.out(f"{f.read()!r} {cli.stopped_at_input()}\n")

    assert run(main).out == "b'one\\n' False\n"


# Words


@pytest.mark.parametrize(
    "text, value",
    [("1", 1), ("007", 7), ("0", None), ("-1", None), ("1.5", None), ("", None), ("x", None)],
)
def test_positive_int(text, value):
    from argparse import ArgumentTypeError

    if value is None:
        with pytest.raises(ArgumentTypeError, match="is not a positive whole number"):
            cli.positive_int(text)
    else:
        assert cli.positive_int(text) == value


@pytest.mark.parametrize(
    "text, value",
    [
        (".5", 0.5),
        ("1e3", 1000),
        ("0", None),
        ("-1", None),
        ("nan", None),
        ("inf", None),
        ("1e10", None),
        ("", None),
    ],
)
def test_positive_float(text, value):
    from argparse import ArgumentTypeError

    if value is None:
        with pytest.raises(ArgumentTypeError, match="is not a positive number of seconds"):
            cli.positive_float(text)
    else:
        assert cli.positive_float(text) == value


def test_shown():
    assert (
        cli.shown("a\n") == "a\\x0a"
        and len(cli.shown("x" * 100)) == 80
        and cli.shown("x" * 80) == "x" * 80
    )


def test_time_of_day(run):
    def main(args):
        cli = cli_now()
        cli.out(f"{cli.timestamp()} {cli.iso_time()} {cli.iso_time(1.9996)}\n")

    assert run(main).out == "14:00:00 2026-03-29T14:00:00.000+0200 1970-01-01T02:00:01.999+0200\n"


def test_a_wait_longer_than_poll_takes(monkeypatch):
    reader, writer = os.pipe()
    try:
        os.write(writer, b"x")
        for seconds in 1e9, 2147484, None:
            assert cli.wait(seconds, [reader]) == [reader]
        os.read(reader, 1)
        monkeypatch.setattr(cli, "_POLL_LIMIT", 0.01)  # the limit is reached several times
        begin = time.monotonic()
        assert cli.wait(0.1, [reader]) == [] and 0.1 <= time.monotonic() - begin < 5
    finally:
        os.close(reader)
        os.close(writer)


def test_the_end_of_processes():
    with subprocess.Popen(["sleep", "100"]) as one, subprocess.Popen(["sleep", "100"]) as other:
        ends = cli.Ends([one.pid, other.pid])
        try:
            assert cli.wait(0, ends.fds) == [] and not ends.over
            one.kill()
            ready = cli.wait(10, ends.fds)
            assert len(ready) == 1 and not ends.ended(ready) and ends.gone == {one.pid}
            other.kill()
            assert ends.ended(cli.wait(10, ends.fds)) and ends.over and ends.fds == ()
        finally:
            one.kill()
            other.kill()
    assert cli.Ends([one.pid]).over  # has ended before
    assert not cli.Ends().over


def test_ticks_end_with_the_last_process():
    with subprocess.Popen(["sleep", "0.3"]) as child:
        begin = time.monotonic()
        found = list(cli.ticks(100, ends=cli.Ends([child.pid], quiet=True)))
        assert (
            len(found) == 1
            and 0.2 < found[0] < 50
            and abs(found[0] - (time.monotonic() - begin)) < 0.5
        )


def test_a_reader_takes_files_and_fifos(tmp_path):
    (tmp_path / "file").write_bytes(b"a\nb\n" * 50000)
    with cli.reader(str(tmp_path / "file")) as stream:
        assert stream.readline() == b"a\n" and len(stream.read()) == 199998
    os.mkfifo(tmp_path / "fifo")
    with subprocess.Popen(["sh", "-c", f"sleep .2; (echo a; sleep .2; echo b) >{tmp_path}/fifo"]):
        with cli.reader(str(tmp_path / "fifo")) as stream:
            assert list(stream) == [b"a\n", b"b\n"]
    with pytest.raises(FileNotFoundError):
        cli.reader(str(tmp_path / "none"))
    with pytest.raises(IsADirectoryError) as caught, cli.reader(str(tmp_path)) as stream:
        stream.read(1)
    assert caught.value.filename == str(tmp_path)


STOP_BEFORE_POLL = """
import os, select, signal, sys
sys.path.insert(0, sys.argv.pop(1))
from crisis import cli
action, poll, signals = sys.argv.pop(1), select.poll, [signal.SIGTERM]

def stopped_poll():
    if signals:
        os.kill(os.getpid(), signals.pop())
    return poll()

def main(args):
    select.poll = stopped_poll
    if action == "wait":
        cli.wait(None)
    elif action == "write":
        cli.write(1, bytes(1 << 20))
    else:
        with cli.reader("-") as f:
            f.read()

cli.run(main, lambda: cli.parser("Test.", cache=False))
"""


@pytest.mark.parametrize("action", ["wait", "write", "read"])
def test_a_stop_just_before_the_wait(action):
    """The signal arrives when the caller has found none, and before poll(2)."""
    library = os.path.join(ROOT, "lib")
    empty, full = os.pipe(), os.pipe()
    os.set_blocking(full[1], False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(full[1], bytes(4096))
    try:
        child = subprocess.run(
            [sys.executable, "-c", STOP_BEFORE_POLL, library, action],
            stdin=empty[0],
            stdout=full[1],
            stderr=subprocess.PIPE,
            timeout=20 * SLOW,
        )
    finally:
        for fd in empty + full:
            os.close(fd)
    assert (child.returncode, child.stderr) == (0, b"")
