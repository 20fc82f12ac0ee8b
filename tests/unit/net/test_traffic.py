# SPDX-License-Identifier: GPL-2.0-or-later
"""What an interface carried and lost, on made-up interfaces."""

import pytest

from crisis.net.traffic import SATURATION_1_95
from made_links import row, sample


def test_saturation_and_a_counter_that_went_back():
    found = row(
        sample(rx_dropped=5, tx_packets=9, tx_bytes=90, queue=(0, 0, 7, 1)),
        sample(
            rx_dropped=6,
            rx_missed_errors=10,
            tx_dropped=100,
            tx_packets=3,
            tx_bytes=100,
            rx_errors=50,
            speed=10,
            queue=(1, 2, 1007, 1),
        ),
    )
    assert found.saturation == 1 + 10 + 100 + 1000 and found.change("tx_packets") is None
    assert found.rate("tx_packets") is None and found.average("tx") is None
    assert found.wire_util is None and found.util() == pytest.approx(80 / 1e7)
    assert found.packets == 0 and found.bytes == 10


def test_sat_is_what_nicstat_adds_up():
    # the columns of /proc/net/dev: errs, drop (with missed), drop, fifo, colls, carrier
    counters = {name: 1 << at for at, name in enumerate(SATURATION_1_95)}
    others = dict.fromkeys(("tx_errors", "rx_fifo_errors", "rx_nohandler", "multicast"), 7)
    after = sample(**counters, **others, queue=(0, 0, 7, 7))
    assert row(sample(), after, 2.0).sat == 2**10 - 1
    assert row(sample(collisions=1), sample(rx_errors=5)).sat is None  # went back


@pytest.mark.parametrize("full, share", [(True, 0.5), (None, 0.75), (False, 0.75)])
def test_util_is_of_the_counted_bytes(full, share):
    after = sample(speed=1000, full=full, rx_bytes=62_500_000, tx_bytes=31_250_000, tx_packets=9)
    found = row(sample(), after)
    assert found.util() == pytest.approx(share)
    assert (found.util("rx"), found.util("tx")) == (pytest.approx(0.5), pytest.approx(0.25))
    assert row(sample(), after, 2.0).util() == pytest.approx(share / 2)
    assert row(sample(), sample(rx_bytes=10)).util() is None
    assert row(sample(), sample(speed=1, rx_bytes=10**9)).util() == 1.0


@pytest.mark.parametrize("full, share", [(True, 0.5), (None, 0.5), (False, 0.75)])
def test_wire_utilization_counts_what_a_frame_occupies(full, share):
    # 1 Gbit/s; 1,250,000 packets of 26 bytes are 62,500,000 on the wire with their 24 more
    counters = {"rx_packets": 1250000, "rx_bytes": 1250000 * 26, "tx_packets": 1}
    counters.update(tx_bytes=31249976, speed=1000)
    found = row(sample(), sample(full=full, **counters))
    assert found.wire_util == pytest.approx(share)
    assert row(sample(), sample(rx_bytes=10)).wire_util is None
    plain = row(sample(), sample(full=full, ethernet=False, **counters))
    assert plain.wire_util == pytest.approx(0.26 if full is not False else 0.51, rel=0.01)


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
    assert row(sample(queue=before), sample(queue=after)).change("queue_drops") == growth


def test_a_new_interface_began_at_nothing():
    found = row(None, sample(rx_packets=3, rx_bytes=300))
    assert (found.bytes, found.packets, found.average("rx"), found.average("tx")) == (
        300,
        3,
        100,
        0,
    )
    assert found.used and not row(None, sample()).used


def test_a_kernel_with_fewer_counters():
    before, after = sample(), sample()
    before.counters, after.counters = before.counters[:23], after.counters[:23]
    found = row(before, after)
    assert found.change("rx_nohandler") is None and found.change("tx_compressed") == 0
    assert found.sat == 0
