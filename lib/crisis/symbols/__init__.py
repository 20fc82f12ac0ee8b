# SPDX-License-Identifier: GPL-2.0-or-later
"""Addresses to names: symbol tables, unwind tables, and stacks of the kernel and of processes."""
