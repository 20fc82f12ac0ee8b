# SPDX-License-Identifier: GPL-2.0-or-later
"""The counters of TCP and UDP, and nicstat's figures from them."""

import pytest

from crisis.net.protocols import TCP, UDP, Activity, Protocols, parse

SNMP = """Tcp: InSegs OutSegs RetransSegs MaxConn
Tcp: 100 200 5 -1
Udp: InDatagrams
Udp: 7
"""


def test_parse():
    assert parse(SNMP) == {
        "Tcp.InSegs": 100,
        "Tcp.OutSegs": 200,
        "Tcp.RetransSegs": 5,
        "Tcp.MaxConn": -1,
        "Udp.InDatagrams": 7,
    }
    assert parse("") == {}


def test_rates_and_what_is_not_there():
    found = Activity(None, parse(SNMP), dict(parse(SNMP), **{"Tcp.InSegs": 150}), 2.0)
    assert found.rate("Tcp.InSegs") == 25 and found.rate("Tcp.InSegs", "Tcp.OutSegs") == 25
    assert found.rate("Tcp.InSegs", "TcpExt.ListenDrops") is None
    back = Activity("blue", {"Udp.InDatagrams": 9}, {"Udp.InDatagrams": 7}, 1.0)
    assert back.change("Udp.InDatagrams") is None and back.label("UDP") == "blue/UDP"


@pytest.mark.parametrize("sent, again, share", [(200, 5, 2.5), (0, 0, 0), (0, 3, None)])
def test_retransmitted_is_of_the_first_transmissions(sent, again, share):
    now = {"Tcp.OutSegs": 1000 + sent, "Tcp.RetransSegs": 10 + again}
    before = {"Tcp.OutSegs": 1000, "Tcp.RetransSegs": 10}
    assert Activity(None, before, now, 1.0).retransmitted == share


def test_this_machine_has_every_counter():
    source = Protocols()
    assert set(TCP.values()) | set(UDP.values()) <= set(source.read())
    record = Activity(None, None, source.read(), 1.0).record(TCP)
    assert set(record) == {"netns", *TCP} and None not in [record[key] for key in TCP]
