# SPDX-License-Identifier: GPL-2.0-or-later
"""The former name of bpf.task, for memleak."""

from .bpf.task import warn_of_foreign_pids  # noqa: F401
