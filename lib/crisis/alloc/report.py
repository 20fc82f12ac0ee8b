# SPDX-License-Identifier: GPL-2.0-or-later
"""Memleak's reports: their rows, and the rows as text, folded stacks and JSON lines."""

from __future__ import annotations

import math
import time

from .. import cli, table
from ..symbols.frame import folded, line
from .kinds import CALLS, UNMAPPED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterator
    from typing import Any

    from ..symbols.frame import Frame
    from .blocks import Group, Groups, StackKey
    from .stack_table import End
    from .tracer import Tracer

__all__ = ["Row", "render_events", "render_folded", "render_json", "render_text", "rows", "totals"]

TOP = 10


class Row:
    """One stack of a report.

    tgid, comm: None for the kernel.  bytes, count; bytes_error, count_error: of 95 % confidence,
    None without sampling; growth: bytes since it was first seen, None without --growth.
    frames: innermost first, None when the stack was lost; end: see StackTable.ends.
    blocks: [(address, bytes)].
    """

    tgid: int | None = None
    comm: str | None = None
    growth: int | None = None
    frames: list[Frame] | None = None
    end: End | None = None

    def __init__(self, group: Group, sampled: bool) -> None:
        self.bytes, self.count, self.blocks = round(group.bytes), round(group.count), group.blocks
        self.bytes_error = _error(group.bytes_variance) if sampled else None
        self.count_error = _error(group.count_variance) if sampled else None


def _error(variance: float) -> int:
    """The error of 95 % confidence."""
    return round(1.96 * math.sqrt(variance))


def rows(
    args: Namespace,
    tracer: Tracer,
    groups: Groups,
    grown: dict[StackKey, float],
    everything: bool = False,
) -> list[Row]:
    """The rows of one report, smallest first; grown: of --growth; everything: not just the top."""

    def rank(key: StackKey) -> tuple[float, float]:
        group = groups[key]
        if args.growth:
            return grown[key], 0
        return (group.count if args.sort == "count" else group.bytes), group.bytes

    keys = sorted(grown if args.growth else groups, key=rank)
    if not everything:
        keys = keys[-(args.top or TOP) :]
    tracer.learn(keys)
    stacks = tracer.frames(keys)
    ends = tracer.ends(stacks)
    if args.inlines and tracer.user:
        known = {key: frames for key, frames in stacks.items() if frames}
        inlined = tracer.symbols.inlined(list(known.values()), first_is_return=True)
        stacks.update(zip(known, inlined))
    made = []
    for key in keys:
        row = Row(groups[key], bool(args.sample))
        if tracer.user:
            row.tgid, row.comm = key[0], tracer.comm(key[0])
        if args.growth:
            row.growth = round(grown[key])
        row.frames, row.end = stacks[key], ends[key]
        made.append(row)
    return made


def totals(args: Namespace, groups: Groups) -> dict[str, int | None]:
    """What all groups have outstanding, as the "total" record has it."""
    every = groups.values()
    return {
        "bytes": round(sum(group.bytes for group in every)),
        "allocations": round(sum(group.count for group in every)),
        "stacks": len(groups),
        "bytes_error": _error(sum(g.bytes_variance for g in every)) if args.sample else None,
        "allocations_error": _error(sum(g.count_variance for g in every)) if args.sample else None,
    }


def render_text(args: Namespace, found: list[Row], many: bool, which: str | None = None) -> str:
    """bcc's report."""
    which = which or "outstanding allocations"
    parts = [f"[{cli.timestamp()}] Top {args.top or TOP} stacks with {which}:\n"]
    for row in found:
        for address, nbytes in row.blocks:
            parts.append(f"\taddr = {address:x} size = {nbytes}\n")
    for row in found:
        parts += _stack(row, many)
    return "".join(parts)


def _stack(row: Row, many: bool) -> list[str]:
    """The lines of a stack."""
    head = (
        f"\t{row.bytes} bytes{_plus_minus(row.bytes_error)} in "
        f"{row.count} allocations{_plus_minus(row.count_error)} from stack"
    )
    if many:
        head += f" of {row.tgid} {table.escape(row.comm or '-')}"
    if row.growth is not None:
        head += f", {row.growth} more than at first"
    lines = [head + "\n"]
    if row.frames is None:
        lines.append("\t\t[stack information lost]\n")
    for frame in row.frames or ():
        lines.append(f"\t\t0x{frame.address:016x}\t{line(frame)}\n")
    if row.end is not None:
        lines.append(f"\t\t[the walk ended {row.end[1]}]\n")
    return lines


def _plus_minus(value: int | None) -> str:
    return "" if value is None else f" (+-{value})"


def render_folded(args: Namespace, found: list[Row], many: bool) -> str:
    """The stacks as flamegraph.pl takes them, weighed by bytes, or by growth with --growth."""
    parts = []
    for row in found:
        root = row.comm or "-" if row.comm is not None or many else None
        if row.frames is not None:
            names = folded(row.frames, root)
        else:
            names = folded([], root or "") + ";[stack information lost]"
        parts.append(f"{names.lstrip(';')} {row.growth if args.growth else row.bytes}\n")
    return "".join(parts)


def render_json(
    args: Namespace,
    found: list[Row],
    seconds: float,
    total: dict[str, int | None],
    lost: dict[str, int],
) -> str:
    """A "stack" record for each row, and a "total" record for all that is outstanding."""
    now, parts = cli.iso_time(), []
    for row in found:
        record: dict[str, Any] = {
            "time": now,
            "record": "stack",
            "pid": row.tgid,
            "comm": row.comm,
            "bytes": row.bytes,
            "allocations": row.count,
            "bytes_error": row.bytes_error,
            "allocations_error": row.count_error,
            "growth_bytes": row.growth,
            "stack": None if row.frames is None else [_frame(frame) for frame in row.frames],
            "stack_end": None if row.end is None else row.end[0],
        }
        if args.show_allocs:
            record["allocs"] = [
                {"address": f"0x{address:x}", "bytes": nbytes} for address, nbytes in row.blocks
            ]
        parts.append(table.json_line(record))
    head = {"time": now, "record": "total", "seconds": seconds}
    parts.append(table.json_line(dict(head, **total, lost=lost)))
    return "".join(parts)


def _frame(frame: Frame) -> dict[str, Any]:
    return {
        "address": f"0x{frame.address:x}",
        "name": frame.name,
        "offset": frame.offset,
        "module": frame.module,
        "inlined": frame.inlined,
        "file_offset": frame.file_offset,
        "build_id": frame.build_id,
    }


def render_events(args: Namespace, tracer: Tracer, events: list[Any]) -> str:
    """--trace: a line or a record for each call."""
    offset = time.time() - time.monotonic()
    if not args.json:
        return "".join(_event_lines(events, offset))
    keys = list({(event.tgid, event.stack) for event in events if not event.freed})
    tracer.learn(keys)
    stacks = tracer.frames(keys)
    parts = []
    for event in events:
        frames = None if event.freed else stacks[event.tgid, event.stack]
        record: dict[str, Any] = {
            "time": event.ns / 1e9 + offset,
            "record": "free" if event.freed else "alloc",
            "call": CALLS[event.kind],
            "pid": event.tgid,
            "tid": event.tid,
            "comm": table.decode(event.comm),
            "address": f"0x{event.address:x}",
            "bytes": event.size,
            "stack": None if frames is None else [frame.name for frame in frames],
        }
        parts.append(table.json_line(record))
    return "".join(parts)


def _event_lines(events: list[Any], offset: float) -> Iterator[str]:
    """The line of each call; offset: of the wall clock from the monotonic one, in seconds.

    There may be 100,000 in a second, so that equal times and names are made text once.
    """
    clocks: dict[int, str] = {}
    comms: dict[bytes, str] = {}
    for event in events:
        kind, comm = event.kind, event.comm
        call = CALLS[kind]
        if event.freed and kind != UNMAPPED:
            call = "free of " + call
        stamp = event.ns / 1e9 + offset
        second = int(stamp)
        if second not in clocks:
            clocks[second] = time.strftime("%H:%M:%S", time.localtime(second))
        if comm not in comms:
            comms[comm] = table.escape(table.decode(comm))
        yield (
            f"{clocks[second]}.{int((stamp - second) * 1e6):06d} {event.tgid:<7} {event.tid:<7} "
            f"{comms[comm]:<16} {call:<24} {event.size:12} 0x{event.address:x}\n"
        )
