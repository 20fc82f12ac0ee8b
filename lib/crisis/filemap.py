# SPDX-License-Identifier: GPL-2.0-or-later
"""What the commands that trace the page cache share: what page.bpf.h needs, and the names of files.

A file is known by its inode.  Its name is read in the kernel, from a dentry of
the inode up to the root of its file system, so that it is right for a file
that has been deleted, for one in another mount namespace, and below overlayfs
(where it is the file that really holds the pages).  User space puts the mount
point in front: `Mounts`.  Layouts follow include/linux/mm_types.h (struct
folio), include/linux/dcache.h and include/linux/xarray.h.
"""

import os

from . import tasks
from .memory.file_names import File, Mounts, Search, device     # noqa: F401

__all__ = ["HAS", "NAMES_SIZE", "Mounts", "Search", "File", "device", "PAGE"]

PAGE = os.sysconf("SC_PAGE_SIZE")
HAS = dict(tasks.HAS, HAVE_FOLIO=("folio", "5.16"), HAVE_FOLIO_ORDER=("folio._folio_order", "99"),
           HAVE_D_ALIAS=("dentry.d_alias", "99"))
NAMES_SIZE = 1 << 20    # bytes of the ring buffer of names: some 7,000 files between two readings
