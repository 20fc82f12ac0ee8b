# SPDX-License-Identifier: GPL-2.0-or-later
"""Interfaces, TCP and UDP of one or of all network namespaces, read again and again."""

from __future__ import annotations

import time
from contextlib import suppress

from ..errors import Error, NotPermitted, Unavailable
from .link import Links, namespaces, softnet
from .protocols import Activity, Protocols
from .traffic import Traffic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from .link import Link, Sample
    from .protocols import Counters

    Source = TypeVar("Source")

__all__ = ["Observer", "Report", "Snapshot", "find_pyroute2", "sources"]

_NO_PYROUTE2 = "cannot import pyroute2. Install the package python3-pyroute2"


def find_pyroute2() -> str:
    """The directory of pyroute2, without importing it.  Raises Unavailable."""
    from importlib.util import find_spec

    found = find_spec("pyroute2")
    if found is None or not found.submodule_search_locations:
        raise Unavailable(_NO_PYROUTE2)
    return found.submodule_search_locations[0]


def sources(netns: str | None, make: Callable[[str | None], Source]) -> list[Source]:
    """make(NAME) of each wanted network namespace, make(None) for the caller's.

    netns: None, a name or a path as for link.Links, or "all".
    Raises Unavailable without pyroute2, NotPermitted, and Error for a name that is not there.
    """
    try:
        if netns != "all":
            return [make(netns)]
        found = [make(None)]
        for path in namespaces():
            with suppress(FileNotFoundError):  # its last process has ended since
                found.append(make(path))
        return found
    except ImportError:
        raise Unavailable(_NO_PYROUTE2) from None
    except PermissionError as exc:
        raise NotPermitted(
            f"cannot enter another network namespace: {exc.strerror}. Run it as root or with "
            "CAP_SYS_ADMIN"
        ) from None
    except FileNotFoundError as exc:
        if netns is None:
            raise
        raise Error(f"no such network namespace: {netns}") from exc


class Snapshot:
    """All counters at one moment.

    samples: {(number of the namespace, index): Sample}.  counters: {netns: Counters}.
    softnet: (packets dropped, turns squeezed), or None without /proc/net.  at: monotonic seconds.
    """

    def __init__(
        self,
        samples: dict[tuple[int, int], Sample],
        counters: dict[str | None, Counters],
        soft: tuple[int, int] | None,
    ) -> None:
        self.samples, self.counters, self.softnet = samples, counters, soft
        self.at = time.monotonic()


class Observer:
    """Reads what is wanted.

    netns: as for sources().  keep: whether an interface is wanted; None for no interfaces.
    speeds: as for link.Links.  protocols: TCP and UDP are wanted.
    Raises OSError, and as sources().
    """

    def __init__(
        self,
        netns: str | None,
        keep: Callable[[Link], bool] | None,
        speeds: dict[str, tuple[int | None, bool | None]],
        protocols: bool,
    ) -> None:
        self._keep = keep
        self._links = sources(netns, lambda name: Links(name, speeds)) if keep else []
        self._protocols = sources(netns, Protocols) if protocols else []

    def read(self) -> Snapshot:
        """The counters now.  Raises OSError."""
        keep = self._keep
        samples = {
            (number, index): sample
            for number, source in enumerate(self._links)
            for index, sample in source.read().items()
            if keep is not None and keep(sample.link)
        }
        soft = None
        with suppress(OSError):  # no /proc/net
            soft = softnet()
        return Snapshot(samples, {one.netns: one.read() for one in self._protocols}, soft)


class Report:
    """What one interval showed.

    since_boot: the interval is all the time since boot.  seconds: its length.
    rows: [Traffic].  activity: [Activity], one for each network namespace.
    softnet: (packets dropped, turns squeezed) of the CPUs' backlogs, or None.
    removed: how many interfaces have gone in the interval.
    """

    def __init__(self, before: Snapshot | None, after: Snapshot) -> None:
        """before: None for a report since boot."""
        self.since_boot = before is None
        self.seconds = after.at - before.at if before else time.clock_gettime(time.CLOCK_BOOTTIME)
        old = before.samples if before else {}
        self.rows = [
            Traffic(old.get(key), sample, self.seconds)
            for key, sample in sorted(after.samples.items())
        ]
        self.activity = [
            Activity(netns, before.counters.get(netns) if before else None, now, self.seconds)
            for netns, now in after.counters.items()
        ]
        self.removed = sum(key not in after.samples for key in old)
        self.softnet = after.softnet
        if before is not None and after.softnet is not None:
            self.softnet = None
            if before.softnet is not None:
                dropped, squeezed = before.softnet
                self.softnet = after.softnet[0] - dropped, after.softnet[1] - squeezed

    @property
    def queue_drops(self) -> int:
        """Packets that the interfaces' queueing disciplines dropped."""
        return sum(row.change("queue_drops") or 0 for row in self.rows)
