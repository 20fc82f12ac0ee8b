# SPDX-License-Identifier: GPL-2.0-or-later
"""The former names of what is in packages now, for commands that are still to change over."""

from .memory.gfp import (CONSTANTS, table, names)  # noqa: F401
