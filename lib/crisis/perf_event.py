# SPDX-License-Identifier: GPL-2.0-or-later
"""The former names of what is in packages now, for commands that are still to change over."""

from .perf.event import (Event, open_event, attach, enable, refusal, TYPE_HARDWARE, TYPE_SOFTWARE, TYPE_TRACEPOINT, TYPE_HW_CACHE, FLAG_PID_CGROUP, DISABLED, INHERIT, EXCLUDE_KERNEL, EXCLUDE_HV, ENABLE_ON_EXEC)  # noqa: F401
from .perf.event_source import (pmu_type, retprobe_bit, format_bits, named_event)  # noqa: F401
from .perf.group import (Group, Counters, layout, scaled)  # noqa: F401
from .perf.tracefs import (tracepoint_id, tracepoint_fields, tracepoint_file)  # noqa: F401
