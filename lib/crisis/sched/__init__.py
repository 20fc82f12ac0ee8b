# SPDX-License-Identifier: GPL-2.0-or-later
"""The scheduler: how long tasks wait on run queues, and for whom."""
