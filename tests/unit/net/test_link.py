# SPDX-License-Identifier: GPL-2.0-or-later
"""Interfaces' utilization, namespaces and softnet."""

import pytest

from crisis.net import link as links
from made_links import link


@pytest.mark.parametrize("full, share", [(True, 0.5), (None, 0.5), (False, 0.75)])
def test_utilization_is_of_the_wire(full, share):
    # 1 Gbit/s; 1,250,000 packets of 26 bytes are 62,500,000 on the wire with their 24 more
    after = link(
        speed=1000,
        full=full,
        rx_packets=1250000,
        rx_bytes=1250000 * 26,
        tx_packets=1,
        tx_bytes=31249976,
    )
    assert links.utilization(after, after.counters, 1.0) == pytest.approx(share)
    assert links.utilization(after, after.counters, 2.0) == pytest.approx(share / 2)
    assert links.utilization(link(), link(rx_bytes=10).counters, 1.0) is None
    after.ethernet = False
    assert links.utilization(after, after.counters, 1.0) == pytest.approx(
        (0.26 if full is not False else 0.51), rel=0.01
    )


def test_softnet(tmp_path):
    path = tmp_path / "proc/net/softnet_stat"
    path.parent.mkdir(parents=True)
    path.write_text("0000acb8 00000002 0000000a 00000000\n000000ff 00000010 00000001 00000000\n")
    assert links.softnet(str(tmp_path)) == (18, 11)


def test_namespaces_by_name_and_by_process(tmp_path):
    for path in "proc/self/ns", "proc/9/ns", "proc/12/ns", "proc/40/ns", "run/netns", "proc/sys":
        (tmp_path / path).mkdir(parents=True)
    own, blue, container = (tmp_path / name for name in ("own", "blue", "container"))
    for file in own, blue, container:
        file.write_text("")
    for path, file in (
        ("proc/self", own),
        ("proc/9", own),
        ("proc/12", container),
        ("proc/40", container),
    ):
        (tmp_path / path / "ns/net").symlink_to(file)
    (tmp_path / "run/netns/blue").symlink_to(blue)
    assert links.namespaces(str(tmp_path)) == ["blue", str(tmp_path / "proc/12/ns/net")]
