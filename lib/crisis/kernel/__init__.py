# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel's interfaces that more than one subsystem uses: /proc, /sys, cgroups, system calls,
limits, ptrace.
"""
