# SPDX-License-Identifier: GPL-2.0-or-later
"""The JSON lines of many hosts: who printed them, and what they are together."""
