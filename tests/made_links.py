# SPDX-License-Identifier: GPL-2.0-or-later
"""Network interfaces, made up, and what they carried."""

from crisis.net import link as links
from crisis.net.traffic import Traffic


def sample(
    index=1,
    name="eth0",
    speed=None,
    full=None,
    up=True,
    queue=(0, 0, 0, 0),
    ethernet=True,
    netns=None,
    **counters,
):
    """An interface whose counters are 0 but for those that are given."""
    made = links.Link()
    made.netns, made.index, made.name, made.up, made.state = netns, index, name, up, "up"
    made.speed, made.full, made.ethernet, made.loopback = speed, full, ethernet, name == "lo"
    values = tuple(counters.get(counter, 0) for counter in links.COUNTERS)
    assert set(counters) <= set(links.COUNTERS)
    return links.Sample(made, values, queue and links.Queue(*queue))


def row(before, after, seconds=1.0):
    return Traffic(before, after, seconds)
