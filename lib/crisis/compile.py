# SPDX-License-Identifier: GPL-2.0-or-later
"""The former name of what is in bpf now, for memleak."""

from .bpf.cache import build  # noqa: F401
from .bpf.source import Source, enumeration  # noqa: F401
