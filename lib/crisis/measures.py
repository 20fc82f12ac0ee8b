# SPDX-License-Identifier: GPL-2.0-or-later
"""What a member of a JSON record means, by its key: one table for all commands.

`crisis-merge` derives from it how the values of several hosts become one, and --openmetrics the
unit of a metric.  The suite's keys end in the unit (_ns, _bytes, _ratio); what does not
follow from the unit is in the tables below.  Pure.
"""

from __future__ import annotations

import re
from functools import lru_cache

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = [
    "NAME",
    "LOCAL",
    "ATTRIBUTE",
    "COUNT",
    "LEVEL",
    "MAX",
    "MIN",
    "MEAN",
    "QUOTIENT",
    "PERCENTILE",
    "EVENTS",
    "Quotient",
    "kind",
    "unit",
    "quotient",
    "weight",
    "of_interval",
    "labels",
    "badness",
]

NAME = "name"  # what the record is of, comparable between hosts
LOCAL = "local"  # what the record is of, on this host only: a PID, an inode
ATTRIBUTE = "attribute"  # a property that cannot be added up
COUNT = "count"  # an amount of the interval
LEVEL = "level"  # an amount at one moment
MAX, MIN = "max", "min"
MEAN = "mean"  # a share of time, a clock rate: a mean over time
QUOTIENT = "quotient"  # of other members of the record
PERCENTILE = "percentile"  # of the record's buckets

# Records of one event each, which has neither an interval nor a state.
EVENTS = frozenset("event wait slice reclaim oom_kill alloc free lost".split())

_NAMES = (
    "record type name kind stat comm cgroup file mount mapping netns interface pmu cpu package "
    "die core event call action program stack since_boot kernel_thread past"
)
_LOCAL = "cores pid tid pidns inode dev irq index start end address uid cgroup_id offset_bytes"
_ATTRIBUTES = (
    "time max_time why flags gfp gfp_flags kswapd order limit limit_cgroup state up duplex loopback"
    " source base_source stack_end perm map killed runnable preempted trigger_pid trigger_tid "
    "trigger_comm prev_pid prev_tid prev_comm front_tid front_comm oom_score_adj load1 load5 load15"
    " tlb_flushed interrupted turbo_enabled turbo sensors allocs mapped_by ranges reason "
    "cooling_max_state page_bytes mtime_ns speed_mbps command ended calls busiest_cpu notes "
    "marks saturation_unit rotational dm_name threads_max pid_max note commands missing compiler"
)
_LEVELS = (
    "buffers_bytes cached_bytes bytes allocations stacks bytes_error allocations_error "
    "growth_bytes change_bytes free_kb threads tasks cpus running_tasks slowed_cpus total_bytes "
    "available_bytes free_bytes corrupted_bytes working_set_bytes memory_pages memory_limit_pages "
    "sockets orphans time_wait open entries current in_flight degraded_disks limit_cpus "
    "oom_kills_since_boot ecc_uncorrected_since_boot ext4_errors_since_check"
)
_KINDS = {
    **dict.fromkeys(_NAMES.split(), NAME),
    **dict.fromkeys(_LOCAL.split(), LOCAL),
    **dict.fromkeys(_ATTRIBUTES.split(), ATTRIBUTE),
    **dict.fromkeys(_LEVELS.split(), LEVEL),
    "steps": MIN,
    "ref_min_bytes": MIN,
    "ref_max_bytes": MAX,
    "limit_bytes": MAX,
    "usage_bytes": MAX,
    "domain_pages": MAX,
    "cooling_state": MAX,
    "busiest_util_ratio": MAX,
    "percent": MEAN,
    "saturation": MEAN,
    "seconds": MEAN,
    "est_ns": MEAN,
    "err_ns": MEAN,
    "slp_ns": MEAN,
    "dur_ns": MEAN,
    "limit_celsius": MIN,
    "prochot_celsius": MIN,
    "avg_celsius": MEAN,
}
_PATTERNS = (
    (r"p\d+_\w+", PERCENTILE),
    (r"(\w+_)?avg_(ns|us|ms)", QUOTIENT),
    (r"\w+_avg\d+", MEAN),
    (r"max_\w+", MAX),
    (r"min_\w+", MIN),
    (r"\w*celsius", MAX),
    (r"(\w+_)?(ratio|mhz)", MEAN),
)


class Quotient:
    """The sum of some members over the sum of others; one minus it, if `complement`.

    scale: a factor for the result, such as that from nanoseconds to microseconds.
    """

    __slots__ = "over", "under", "complement", "scale"

    def __init__(
        self,
        over: Sequence[str],
        under: Sequence[str],
        complement: bool = False,
        scale: float = 1.0,
    ) -> None:
        self.over, self.under = over, under
        self.complement, self.scale = complement, scale

    def of(self, over: float, under: float) -> float | None:
        """The value of the two sums; None for a quotient of nothing."""
        if not under:
            return None
        return 1 - over / under if self.complement else over / under * self.scale


def _hits(misses: str, references: str) -> Quotient:
    return Quotient((misses,), (references,), complement=True)


_QUOTIENTS = {
    "hit_ratio": Quotient(("hits",), ("hits", "misses")),
    "demand_hit_ratio": _hits("miss_read_pages", "read_pages"),
    "ipc": Quotient(("instr",), ("cycles",)),
    "bmr_ratio": Quotient(("br_mispred",), ("br_retired",)),
    "l1d_ratio": _hits("l1dmiss", "l1dref"),
    "l1i_ratio": _hits("l1imiss", "ins"),
    "l2_ratio": _hits("l2miss", "l2ref"),
    "l2i_ratio": Quotient(("l2ihit",), ("l2ihit", "l2imiss")),
    "llc_ratio": _hits("llcmiss", "llcref"),
    "dtlb_ratio": Quotient(("dtlb_cycles",), ("cycles",)),
    "itlb_ratio": Quotient(("itlb_cycles",), ("cycles",)),
    "miss_ratio": Quotient(("cache_misses",), ("instr",)),
    "bmis_ratio": Quotient(("branch_misses",), ("instr",)),
    "bus_ratio": Quotient(("bus_cycles",), ("instr",)),
    "read_await_ms": Quotient(("read_ms",), ("read_ios",)),
    "write_await_ms": Quotient(("write_ms",), ("write_ios",)),
}
_NS = {"ns": 1.0, "us": 1e-3, "ms": 1e-6}
# A clock rate is that of the time in C0.
_WEIGHTS = {"percent": "size_bytes", "mhz": "c0_mcyc", "ratio": "c0_mcyc"}

# The measure by which one host or group is worse than another: the first that a record has.
_BADNESS = (
    "p99_us p99_ms util_ratio cpu_some_ratio memory_some_ratio cpu_ratio max_ns wait_ns lat_ns "
    "misses cpu_total_ns retrans_segs llcmiss run_ns total_ns bytes ref_bytes res_bytes "
    "celsius max_celsius"
).split()

# The suffix of a key: the base unit of a metric, and the factor to it.
_UNITS = {
    "ns": ("seconds", 1e-9),
    "us": ("seconds", 1e-6),
    "ms": ("seconds", 1e-3),
    "seconds": ("seconds", 1.0),
    "bytes": ("bytes", 1.0),
    "kb": ("bytes", 1024.0),
    "pages": ("pages", 1.0),
    "packets": ("packets", 1.0),
    "ratio": ("ratio", 1.0),
    "percent": ("ratio", 0.01),
    "avg10": ("avg10_ratio", 0.01),
    "avg60": ("avg60_ratio", 0.01),
    "avg300": ("avg300_ratio", 0.01),
    "celsius": ("celsius", 1.0),
    "mhz": ("hertz", 1e6),
    "mbps": ("bytes_per_second", 125000.0),
}


@lru_cache(1 << 12)
def kind(key: str) -> str | None:
    """What the key means by the tables; None for a key that they do not have."""
    found = _KINDS.get(key)
    if found is None and key in _QUOTIENTS:
        found = QUOTIENT
    if found is None:
        found = next((what for form, what in _PATTERNS if re.fullmatch(form, key)), None)
    return found


@lru_cache(1 << 12)
def unit(key: str) -> tuple[str, str, float]:
    """(the key without its unit, the base unit or "", the factor to it)."""
    stem, _, last = key.rpartition("_")
    if last not in _UNITS:
        return key, "", 1.0
    return (stem, *_UNITS[last])


@lru_cache(1 << 12)
def quotient(key: str) -> Quotient:
    """How a key of kind QUOTIENT is computed."""
    if key in _QUOTIENTS:
        return _QUOTIENTS[key]
    prefix, _, scale = key.rpartition("avg_")
    return Quotient((f"{prefix}total_ns",), (f"{prefix}count",), scale=_NS[scale])


def weight(key: str, record: Mapping[str, object]) -> float:
    """The weight of a record in a mean: its seconds, for a share of a file its size, ..."""
    for member in _WEIGHTS.get(key, "seconds"), "seconds":
        value = record.get(member)
        if value is not None and key != "seconds":
            return float(value) if isinstance(value, (int, float)) else 0.0
    return 1.0


def of_interval(record: Mapping[str, object]) -> bool:
    """Whether the amounts of a record are those of an interval, not those at one moment."""
    # cachesnoop's files have their seconds in the record before, the total.
    timed = record.get("seconds") is not None or "added_pages" in record
    return timed or record.get("record") in EVENTS


def labels(record: Mapping[str, object], local: bool = False) -> dict[str, str]:
    """What a record is of: {key: value as text}.  local: what only this host knows, too.

    A stack is the names of its functions with ";" between them.  The CPU of a process is the one
    that it ran on, and no name.  A text whose key the tables do not have is a name: what is unlike
    stays apart.
    """
    found = {}
    for key, value in record.items():
        what = kind(key)
        if what is None and isinstance(value, str):
            what = NAME
        if key == "cpu" and "pid" in record:
            what = ATTRIBUTE
        if value is not None and (what == NAME or local and what == LOCAL):
            found[key] = _text(value)
    return found


def _text(value: object) -> str:
    if isinstance(value, list):
        return ";".join(map(_frame, value))
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)


def _frame(frame: object) -> str:
    if isinstance(frame, dict):
        return str(frame.get("name") or frame.get("module") or "[unknown]")
    return str(frame)


def badness(keys: Mapping[str, object]) -> str | None:
    """The key by which groups and hosts are ranked, of those that there are."""
    return next((key for key in _BADNESS if keys.get(key) is not None), None)
