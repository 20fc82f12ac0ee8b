# SPDX-License-Identifier: GPL-2.0-or-later
"""perf_event_open(2): events, groups of them, PMUs in sysfs, and tracepoints."""
