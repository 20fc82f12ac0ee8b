# SPDX-License-Identifier: GPL-2.0-or-later
"""The commands that read the CPUs' performance counters.

Event codes, what to open where, rows and columns.
"""
