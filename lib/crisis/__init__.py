# SPDX-License-Identifier: GPL-2.0-or-later
"""Helpers shared by the crisis-tools commands."""

__version__ = "0.1.0"
