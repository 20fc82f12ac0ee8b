# SPDX-License-Identifier: GPL-2.0-or-later
"""Network interfaces, made up, and what they carried."""

from crisis.net import link as links
from crisis.net.traffic import Traffic


def link(index=1, name="eth0", speed=None, full=None, up=True, queue=(0, 0, 0, 0), **counters):
    made = links.Link()
    made.netns, made.index, made.name, made.up, made.state, made.ethernet = (
        None,
        index,
        name,
        up,
        "up",
        True,
    )
    made.speed, made.full, made.queue = speed, full, queue
    made.counters = dict(dict.fromkeys(links.COUNTERS, 0), **counters)
    return made


def row(before, after, seconds=1.0):
    return Traffic(before, after, seconds)
