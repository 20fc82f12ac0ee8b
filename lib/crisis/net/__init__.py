# SPDX-License-Identifier: GPL-2.0-or-later
"""The network side of the kernel: interfaces, and the delay accounts that come over netlink."""
