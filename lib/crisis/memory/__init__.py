# SPDX-License-Identifier: GPL-2.0-or-later
"""Memory: the page cache of files, and the pages that processes touch."""
