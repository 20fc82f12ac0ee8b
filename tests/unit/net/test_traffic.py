# SPDX-License-Identifier: GPL-2.0-or-later
"""What an interface carried and lost, on made-up interfaces."""

import pytest

from made_links import link, row


def test_saturation_and_a_counter_that_went_back():
    found = row(
        link(rx_dropped=5, tx_packets=9, queue=(0, 0, 7, 1)),
        link(
            rx_dropped=6,
            rx_missed_errors=10,
            tx_dropped=100,
            tx_packets=3,
            rx_errors=50,
            queue=(1, 2, 1007, 1),
        ),
    )
    assert (
        found.saturation == 1 + 10 + 100 + 1000
        and found.changes["tx_packets"] is None
        and found.util is None
    )
    assert found.rate("tx_packets") is None and found.average("tx") is None


@pytest.mark.parametrize(
    "before, after, growth",
    [
        ((0, 0, 10, 0), (0, 0, 14, 0), 4),
        ((0, 0, (1 << 32) - 2, 0), (0, 0, 3, 0), 5),
        ((0, 0, 500, 0), (0, 0, 3, 0), 3),
        (None, (0, 0, 3, 0), 3),
        ((0, 0, 3, 0), None, None),
    ],
)
def test_drops_of_queues(before, after, growth):
    assert row(link(queue=before), link(queue=after)).changes["queue_drops"] == growth


def test_a_new_interface_began_at_nothing():
    assert row(None, link(rx_packets=3, rx_bytes=300)).bytes == 300
