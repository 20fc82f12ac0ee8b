# SPDX-License-Identifier: GPL-2.0-or-later
"""Allocators: where their functions are, and what they have allocated and not freed."""
