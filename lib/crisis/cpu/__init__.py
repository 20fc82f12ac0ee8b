# SPDX-License-Identifier: GPL-2.0-or-later
"""CPUs: what they are, their registers, clocks, idle states, heat, time and interrupts."""
