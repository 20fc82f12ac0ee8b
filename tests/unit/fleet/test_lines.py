# SPDX-License-Identifier: GPL-2.0-or-later
"""Lines of hosts, by the output of clush and pdsh, and hostile ones."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crisis.fleet import lines
from crisis.fleet.lines import Lines


def read(text, size=None, name="here"):
    data = text if isinstance(text, bytes) else text.encode()
    stream, found = Lines(name), []
    for at in range(0, len(data), size or len(data) or 1):
        found += stream.feed(data[at : at + (size or len(data))])
    return found + list(stream.feed(b""))


def hosts(found):
    return [
        (list(line.hosts), line.record if line.record is not None else line.text) for line in found
    ]


@pytest.mark.parametrize("size", [None, 1, 7])
def test_the_ways_to_name_a_host(size):
    text = """\
web1: {"a":1}
{"a":2}
pdsh1.example.com: {"a":3}
---------------
db1,web[2-3] (3)
---------------
{"a":4}
web4: {"a":5}
----------------
web5
----------------
{"a":6}
{"a":7}"""
    assert hosts(read(text, size)) == [
        (["web1"], {"a": 1}),
        (["here"], {"a": 2}),
        (["pdsh1.example.com"], {"a": 3}),
        (["db1", "web2", "web3"], {"a": 4}),
        (["web4"], {"a": 5}),
        (["web5"], {"a": 6}),
        (["web5"], {"a": 7}),
    ]


@pytest.mark.parametrize(
    "text, names, why",
    [
        ("clush: web3: exited with exit code 255", ["web3"], "exited with exit code 255"),
        (
            "clush: web[3-4] (2): exited with exit code 1",
            ["web3", "web4"],
            "exited with exit code 1",
        ),
        ("clush: web2: command timeout", ["web2"], "command timeout"),
        (
            "pdsh@admin: web9: ssh exited with exit code 255",
            ["web9"],
            "ssh exited with exit code 255",
        ),
    ],
)
def test_what_clush_and_pdsh_report(text, names, why):
    (line,) = read(text)
    assert (list(line.hosts), line.text, line.failed, line.record) == (names, why, True, None)


def test_other_lines():
    text = (
        "web3: ssh: connect to host web3 port 22: Connection refused\n"
        "Welcome to Debian\n\n"
        'web4: {"a":1,"b\n'
        "web5: {}\r\n"
        '\rclush: 0/2\rclush: 1/2\r     \rweb6: {"a":1}\n'
    )
    found = read(text)
    assert [(list(line.hosts), line.text, line.cut) for line in found] == [
        (["web3"], "ssh: connect to host web3 port 22: Connection refused", False),
        ([], "Welcome to Debian", False),
        (["web4"], '{"a":1,"b', True),
        (["web5"], "{}", False),
        (["web6"], '{"a":1}', False),
    ]
    assert found[3].record == {} and found[4].record == {"a": 1}


def test_half_a_heading_is_no_heading():
    text = '---------------\nnot a host list\n---------------\nweb7\nmore\n{"a":1}'
    assert hosts(read(text))[-1] == (["here"], {"a": 1})


@pytest.mark.parametrize(
    "text",
    [
        '{"a":NaN}',
        '{"a":Infinity}',
        '{"a":-Infinity}',
        '{"a":1e999}',
        '{"a":1e31}',
        '{"a":' + "1" * 21 + "}",
        '{"a":' + "1" * 500000 + "}",
        '{"a":' * 100000,
        '{"a":' * 9 + "1" + "}" * 9,
        "[" * 1000,
        '{"a":[' + "1," * 5000 + "1]}",
        '{"a":1}}',
        '{"a":1',
        "[1]",
        "1",
        '{"a":"' + "x" * lines.MOST_LINE + '"}',
    ],
)
def test_what_is_no_record(text):
    assert lines.parse(text) is None


def test_a_text_is_cut_and_can_be_printed():
    record = lines.parse('{"a":"\\ud800\\n","b":"%s"}' % ("x" * 5000))
    assert record["a"] == "\\ud800\n" and len(record["b"]) == lines.MOST_TEXT
    json.dumps(record).encode()


def test_a_line_without_end_is_dropped():
    found = read(b"web1: {" + b"x" * (3 << 20) + b'\nweb2: {"a":1}\n', 65536)
    assert [list(line.hosts) for line in found] == [["web1"], ["web2"]]
    assert found[0].record is None and found[1].record == {"a": 1}


def test_the_hosts_of_a_stream_are_bounded():
    text = "".join(f"h{n}[1-50000]: x\n" for n in range(10))
    assert [len(line.hosts) for line in read(text)] == [50000, 50000] + [0] * 8


@given(st.binary(max_size=300), st.integers(1, 40))
def test_any_bytes(data, size):
    whole, parts = read(data), read(data, size)
    assert hosts(whole) == hosts(parts)


def test_epoch():
    assert lines.epoch("1970-01-01T02:00:01.500+0200") == 1.5
    assert lines.epoch(1.5) == 1.5
    for text in "", "now", "9999-99-99T00:00:00.000+0000", None, [], 1e29, -1:
        assert lines.epoch(text) is None
