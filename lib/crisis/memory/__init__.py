# SPDX-License-Identifier: GPL-2.0-or-later
"""Memory: the page cache of files, and the pages that processes touch."""

import os

__all__ = ["PAGE"]

PAGE = os.sysconf("SC_PAGE_SIZE")  # bytes
