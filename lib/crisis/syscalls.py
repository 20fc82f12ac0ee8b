# SPDX-License-Identifier: GPL-2.0-or-later
"""The former names of what is in packages now, for commands that are still to change over."""

from .kernel.rlimit import (raise_open_files as room_for)  # noqa: F401
from .kernel.syscalls import (call, ioctl, address, detached_mount)  # noqa: F401
