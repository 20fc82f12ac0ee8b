# SPDX-License-Identifier: GPL-2.0-or-later
"""What progs/page.bpf.h needs: kernel features, and room for the names of files.

Layouts follow include/linux/mm_types.h (struct folio), include/linux/dcache.h
and include/linux/xarray.h.
"""

from __future__ import annotations

import os

from . import task

__all__ = ["HAS", "NAMES_SIZE", "PAGE"]

PAGE = os.sysconf("SC_PAGE_SIZE")
HAS = dict(
    task.HAS,
    HAVE_FOLIO=("folio", "5.16"),
    HAVE_FOLIO_ORDER=("folio._folio_order", "99"),
    HAVE_D_ALIAS=("dentry.d_alias", "99"),
)
NAMES_SIZE = 1 << 20  # bytes of the ring buffer of names: some 7,000 files between two readings
