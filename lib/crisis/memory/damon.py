# SPDX-License-Identifier: GPL-2.0-or-later
"""How much of a process was touched, sampled by DAMON.

Needs CONFIG_DAMON_VADDR, CONFIG_DAMON_SYSFS and Linux 6.0.

The resident pages are handed to DAMON as regions that it must keep, with one
sample an aggregation: it clears the accessed bit of one page chosen at random
in each region, sleeps for the window, and looks whether the bit is set again.
A region of one page is then exact; of several, the sum of the regions whose
page was touched is an unbiased estimate with a known standard error.  DAMON
remembers a bit that it cleared in the page's young flag, so that reclaim
loses nothing.  Follows mm/damon/{core,sysfs,sysfs-schemes,vaddr}.c and
Documentation/admin-guide/mm/damon/usage.rst.
"""

from __future__ import annotations

import os
import time

from ..errors import Error, NotPermitted, Unavailable
from ..kernel import proc
from . import PAGE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    Span = tuple[int, int]

__all__ = ["REGIONS", "regions_of", "standard_error", "check", "Damon"]

REGIONS = 4096
_MOST = str((1 << 63) - 1)
_U32 = str((1 << 32) - 1)
_TOP = "sys/kernel/mm/damon/admin/kdamonds"
_NO_ADDRESSES = (
    "DAMON does not watch fixed virtual addresses here: the kernel was built without "
    "CONFIG_DAMON_VADDR, or is older than 6.0"
)


def regions_of(runs: Iterable[Span], most: int = REGIONS) -> list[Span]:
    """At most about `most` regions [(start, end)] that cover the page runs [(start, end)].

    Runs are cut into equal shares; where there are more runs than regions,
    neighbours are joined across the smallest gaps, which then belong to them.
    """
    runs = sorted(runs)
    if len(runs) > most // 2:
        gaps = sorted((b[0] - a[1], i) for i, (a, b) in enumerate(zip(runs, runs[1:])))
        joined = {i for _, i in gaps[: len(runs) - most // 2]}
        result: list[Span] = []
        for index, run in enumerate(runs):
            if index - 1 in joined:
                result[-1] = result[-1][0], run[1]
            else:
                result.append(run)
        runs = result
    pages = sum(end - start for start, end in runs) // PAGE
    step = PAGE * (1 if pages <= most else -(-pages // max(1, most - len(runs))))
    return [(at, min(at + step, end)) for start, end in runs for at in range(start, end, step)]


def standard_error(regions: Iterable[Span], touched: int) -> float:
    """The standard error, in bytes, of a sampled sum of `touched` bytes.

    0.0 where every region is one page.
    """
    sizes = [end - start for start, end in regions]
    total = sum(sizes)
    if not total or all(size == PAGE for size in sizes):
        return 0.0
    share = touched / total
    return float((share * (1 - share) * sum(size * size for size in sizes if size > PAGE)) ** 0.5)


def check(root: str = "/") -> None:
    """Raise what Damon() would, as far as that is known without setting DAMON up.

    Raises Unavailable, NotPermitted, or Error where it is in use.
    """
    top = os.path.join(root, _TOP)
    try:
        with open(os.path.join(top, "nr_kdamonds")) as f:
            used = f.read().strip()
        if used != "0" and os.path.exists(os.path.join(top, "0/contexts/0")):
            with open(os.path.join(top, "0/contexts/0/avail_operations")) as f:
                if "fvaddr" not in f.read().split():
                    raise Unavailable(_NO_ADDRESSES)
    except FileNotFoundError:
        raise Unavailable(
            f"there is no {top}: the kernel was built without CONFIG_DAMON_SYSFS"
        ) from None
    except PermissionError as exc:
        raise NotPermitted(
            f"cannot read {top}/nr_kdamonds: {exc.strerror}. DAMON needs root"
        ) from None
    if proc.kernel_option("CONFIG_DAMON_VADDR", root) is False:
        raise Unavailable(_NO_ADDRESSES)
    if used != "0":
        raise Error(
            f"cannot use DAMON: somebody has set it up ({top}/nr_kdamonds is {used}). "
            f"Stop them, or take another --source"
        )


class Damon:
    """One kdamond, ours while this object lives.

    Raises Unavailable, NotPermitted, or Error where it is in use.
    """

    def __init__(self, root: str = "/") -> None:
        self.top = os.path.join(root, _TOP)
        self.ours = False
        check(root)
        self._write("nr_kdamonds", "1")
        self.ours = True
        try:
            self._write("0/contexts/nr_contexts", "1")
            self._check_operations()
        except BaseException:
            self.close()
            raise

    def _check_operations(self) -> None:
        if "fvaddr" not in self._read("0/contexts/0/avail_operations").split():
            raise Unavailable(_NO_ADDRESSES)

    def _read(self, path: str) -> str:
        with open(os.path.join(self.top, path)) as f:
            return f.read()

    def _write(self, path: str, text: str) -> None:
        try:
            fd = os.open(os.path.join(self.top, path), os.O_WRONLY | os.O_CLOEXEC)
        except PermissionError as exc:
            raise NotPermitted(
                f"cannot write {self.top}/{path}: {exc.strerror}. DAMON needs root"
            ) from None
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)

    def close(self) -> None:
        """Stop the kdamond and leave DAMON as it was."""
        if self.ours:
            self.stop()
            self._write("nr_kdamonds", "0")
            self.ours = False

    def stop(self) -> None:
        try:
            self._write("0/state", "off")
        except OSError:  # it is not running, or has ended with its target
            pass

    def start(self, pid: int, regions: list[Span], seconds: float) -> tuple[int, int]:
        """Begin a window of `seconds` over the regions [(start, end)] of a process.

        Returns the (begin, end) of the call in ns of CLOCK_MONOTONIC.
        """
        context, us, count = (
            "0/contexts/0/",
            str(max(1, int(seconds * 1e6))),
            str(max(3, len(regions))),
        )
        self._write(context + "operations", "fvaddr")
        intervals = context + "monitoring_attrs/intervals/"
        for name in "sample_us", "aggr_us", "update_us":
            self._write(intervals + name, us)
        # As many as there are: DAMON splits none, since there are more than half of the maximum,
        # and merges none beyond the mean size.  The maximum is checked against the minimum at once.
        number = context + "monitoring_attrs/nr_regions/"
        for name in (
            ("max", "min") if int(count) > int(self._read(number + "min")) else ("min", "max")
        ):
            self._write(number + name, count)
        self._write(context + "targets/nr_targets", "0")
        self._write(context + "targets/nr_targets", "1")
        self._write(context + "targets/0/pid_target", str(pid))
        self._write(context + "targets/0/regions/nr_regions", str(len(regions)))
        for index, (start, end) in enumerate(regions):
            self._write(context + f"targets/0/regions/{index}/start", str(start))
            self._write(context + f"targets/0/regions/{index}/end", str(end))
        self._write(context + "schemes/nr_schemes", "0")
        self._write(context + "schemes/nr_schemes", "2")
        for scheme, least in (
            (0, "1"),
            (1, "0"),
        ):  # what was touched, and all: this one counts the windows
            path = context + f"schemes/{scheme}/"
            self._write(path + "action", "stat")
            for name, most in ("sz", _MOST), ("nr_accesses", _U32), ("age", _U32):
                self._write(path + f"access_pattern/{name}/max", most)
                self._write(
                    path + f"access_pattern/{name}/min", least if name == "nr_accesses" else "0"
                )
        begin = time.monotonic_ns()
        self._write("0/state", "on")
        return begin, time.monotonic_ns()

    def result(self) -> tuple[int, int]:
        """(bytes touched, bytes watched) of the windows that have ended.

        As of the kdamond's last turn; (0, 0) before.

        Blocks until the kdamond's next turn.  Raises ProcessLookupError when it has ended with its
        target.
        """
        try:
            self._write("0/state", "update_schemes_stats")
        except OSError:
            if self._read("0/state").strip() != "on":
                raise ProcessLookupError(3, "No such process") from None
            raise
        return self._tried(0), self._tried(1)

    def _tried(self, scheme: int) -> int:
        return int(self._read(f"0/contexts/0/schemes/{scheme}/stats/sz_tried"))
