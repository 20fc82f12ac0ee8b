# SPDX-License-Identifier: GPL-2.0-or-later
"""What concerns all commands: where they are, what they need, and whether this machine has it."""
