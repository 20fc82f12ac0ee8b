# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel's interfaces that more than one subsystem uses.

They are /proc, /sys, cgroups, pressure, system calls, limits and ptrace.
"""
