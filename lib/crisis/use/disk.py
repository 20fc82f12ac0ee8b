# SPDX-License-Identifier: GPL-2.0-or-later
"""Block devices: /proc/diskstats, and the errors that drivers and file systems count.

Follows diskstats_show() in block/genhd.c, Documentation/admin-guide/iostats.rst, sysstat's iostat
for the formulas, drivers/scsi/scsi_sysfs.c, drivers/md/md.c and fs/ext4/sysfs.c.
"""

from __future__ import annotations

import os
import re

from .row import Row, contents, growth, lines, ratio

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .row import Counters

__all__ = ["QUEUE", "AWAIT", "AWAIT_ROTATIONAL", "Disks", "Reading"]

QUEUE = 2  # requests
AWAIT, AWAIT_ROTATIONAL = 10, 30  # ms
_FIELDS = (
    "read_ios read_merges read_sectors read_ms write_ios write_merges write_sectors write_ms"
    " in_flight busy_ms queued_ms".split()
)
# unsigned int in diskstats_show()
_WRAPPING = ("read_ms", "write_ms", "busy_ms", "queued_ms")
_SECTOR = 512
_WORKING = ("running", "live", "created", "")  # SCSI's and NVMe's states of a device in use


class Reading:
    """A block device at one instant.

    counters: as diskstats has them; io_errors and ext4_errors where something counts them.
    rotational: None where that is not known.  degraded: missing disks of an MD array.
    state: of a SCSI or NVMe device, "" where it is not known.  label: a device mapper's name.
    """

    __slots__ = ("counters", "rotational", "degraded", "state", "label")

    def __init__(self, counters: Counters) -> None:
        self.counters = counters
        self.rotational: bool | None = None
        self.degraded, self.state, self.label = 0, "", ""


class Disks:
    """A row for each whole disk that has ever done I/O."""

    def __init__(self) -> None:
        self.missing: list[str] = []

    def read(self) -> dict[str, Reading]:
        """{name: Reading} now."""
        self.missing.clear()
        try:
            whole = {name.replace("!", "/") for name in os.listdir("/sys/block")}
        except OSError:
            whole = set()
            self.missing.append("cannot read /sys/block: partitions are shown as disks")
        found: dict[str, Reading] = {}
        for line in lines("/proc/diskstats"):
            _, _, name, *words = line.split()
            counters = dict(zip(_FIELDS, map(int, words)))
            if (name in whole or not whole) and any(counters.values()):
                found[name] = Reading(counters)
                _describe(found[name], name)
        _count_ext4(found)
        return found

    def rows(
        self, before: dict[str, Reading], after: dict[str, Reading], seconds: float
    ) -> list[Row]:
        """A row for each disk that both readings have."""
        return [
            _row(name, before[name], disk, seconds)
            for name, disk in after.items()
            if name in before
        ]


def _describe(disk: Reading, name: str) -> None:
    """Add what /sys has about a disk."""
    at = "/sys/block/" + name.replace("/", "!")
    rotational = contents(at + "/queue/rotational")
    disk.rotational = None if rotational is None else rotational == "1"
    if name.startswith("md"):
        disk.degraded = int(contents(at + "/md/degraded") or 0)
    elif name.startswith("dm-"):
        disk.label = contents(at + "/dm/name") or ""
    elif name.startswith(("sd", "sr", "nvme")):
        disk.state = contents(at + "/device/state") or ""
        for file in "ioerr_cnt", "iotmo_cnt":  # SCSI's, hexadecimal
            text = contents(f"{at}/device/{file}")
            if text:
                disk.counters["io_errors"] = disk.counters.get("io_errors", 0) + int(text, 16)


def _count_ext4(disks: dict[str, Reading]) -> None:
    """Add the errors that the super blocks of ext4 count, until e2fsck(8) clears them."""
    base = "/sys/fs/ext4"
    for entry in sorted(os.listdir(base)) if os.path.isdir(base) else ():
        text = contents(f"{base}/{entry}/errors_count")
        disk = disks.get(entry) or disks.get(re.sub(r"(?<=\d)p\d+$|(?<=\D)\d+$", "", entry))
        if text and text.isdigit() and disk is not None:
            counters = disk.counters
            counters["ext4_errors"] = counters.get("ext4_errors", 0) + int(text)


def _row(name: str, before: Reading, after: Reading, seconds: float) -> Row:
    change = _changes(before.counters, after.counters)
    ios = change.get("read_ios", 0) + change.get("write_ios", 0)
    milliseconds = seconds * 1000
    util = ratio(change.get("busy_ms"), milliseconds)
    queue = ratio(change.get("queued_ms"), milliseconds)
    wait = ratio(change.get("read_ms", 0) + change.get("write_ms", 0), ios)
    stuck = _stuck(before.counters, after.counters, change)
    errors = growth(before.counters, after.counters, "io_errors", "ext4_errors")
    ext4 = after.counters.get("ext4_errors", 0)
    offline = after.state not in _WORKING
    slow = AWAIT_ROTATIONAL if after.rotational else AWAIT
    moved = (change.get("read_sectors", 0) + change.get("write_sectors", 0)) * _SECTOR
    notes = [
        after.state if offline else None,
        f"missing disks: {after.degraded}" if after.degraded else None,
        f"ext4 errors: {ext4}" if ext4 else None,
        f"none of {stuck} requests completed" if stuck else None,
        None if wait is None else f"await {wait:.1f} ms",
        _rates(change, seconds) if ios else None,
        f"{moved / seconds / 1e6:.1f} MB/s" if ios else None,
        after.label or None,
    ]
    return Row(
        "disk",
        name,
        util=None if util is None else min(util, 1.0),
        saturation=queue,
        unit="requests",
        errors=errors,
        erroneous=bool(errors or after.degraded or ext4 or offline),
        saturated=bool(stuck) or (queue or 0) >= QUEUE and (wait or 0) >= slow,
        notes=notes,
        values={
            **{field: change.get(field) for field in _FIELDS if field != "in_flight"},
            "in_flight": after.counters.get("in_flight"),
            "read_await_ms": ratio(change.get("read_ms"), change.get("read_ios")),
            "write_await_ms": ratio(change.get("write_ms"), change.get("write_ios")),
            "rotational": after.rotational,
            "state": after.state or None,
            "degraded_disks": after.degraded,
            "io_errors": growth(before.counters, after.counters, "io_errors"),
            "ext4_errors_since_check": after.counters.get("ext4_errors"),
            "dm_name": after.label or None,
        },
    )


def _changes(before: Counters, after: Counters) -> Counters:
    """The growth of each field that has not gone back; the milliseconds wrap at 32 bits."""
    if growth(before, after, "read_ios", "write_ios") is None:  # another device of this name
        return {}
    found = {}
    for field in _FIELDS:
        change = after[field] - before[field]
        if change < 0 and field in _WRAPPING:
            change %= 1 << 32
        if change >= 0:
            found[field] = change
    return found


def _stuck(before: Counters, after: Counters, change: Counters) -> int:
    """How many requests were in flight all the time while none was completed."""
    done = change.get("read_ios") != 0 or change.get("write_ios") != 0
    return 0 if done else min(before["in_flight"], after["in_flight"])


def _rates(change: Counters, seconds: float) -> str:
    reads, writes = (change.get(way + "_ios", 0) / seconds for way in ("read", "write"))
    return f"{reads:.0f} r/s, {writes:.0f} w/s"
