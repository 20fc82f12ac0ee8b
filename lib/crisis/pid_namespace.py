# SPDX-License-Identifier: GPL-2.0-or-later
"""The former name of bpf.pid_namespace, for memleak."""

from .bpf.pid_namespace import place  # noqa: F401
