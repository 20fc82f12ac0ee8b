# SPDX-License-Identifier: GPL-2.0-or-later
"""The resources of the USE method: the utilization, saturation and errors of each.

A module has one class for each kind of resource.  read() returns the counters of one instant,
rows() the rows of the interval between two of them.  A file that cannot be read leaves its
counters out, and the value that they serve is not known.
"""
