# SPDX-License-Identifier: GPL-2.0-or-later
"""The engines of commands that trace with BPF: their programs, and what they read from them."""
