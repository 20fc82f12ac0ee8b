# SPDX-License-Identifier: GPL-2.0-or-later
"""The delay accounts of tasks: layouts of struct taskstats, and the netlink protocol."""

import errno
import os
import struct

import pytest

from crisis.errors import Error, NotPermitted, Unavailable
from crisis.net import taskstats


def attribute(kind, payload):
    return struct.pack("=HH", 4 + len(payload), kind) + payload + bytes(-len(payload) % 4)


def test_attributes():
    raw = attribute(3, b"eth0\0") + attribute(23, b"12345678")
    raw += struct.pack("=HH", 6, 0x8000 | 7) + b"xy"  # a nested one, at the end without padding
    assert taskstats.attributes(raw) == {3: b"eth0\0", 23: b"12345678", 7: b"xy"}
    assert (
        taskstats.attributes(raw + b"\0\0\0\0")
        == taskstats.attributes(raw + b"\1")
        == taskstats.attributes(raw)
    )


# Offsets by the C compiler: offsetof(struct taskstats, ..._count), uapi/linux/taskstats.h.
PLACES = {
    "cpu": 16,
    "blkio": 32,
    "swapin": 48,
    "freepages": 312,
    "thrashing": 328,
    "compact": 352,
    "wpcopy": 400,
    "irq": 416,
}


def made_up(version, size, places, values):
    raw = bytearray(size)
    struct.pack_into("=H", raw, 0, version)
    for name, pair in values.items():
        struct.pack_into("=QQ", raw, places[name], *pair)
    return bytes(raw)


def parse(raw):
    """The accounts in a struct taskstats."""
    layout = taskstats.Layout(struct.unpack_from("=H", raw)[0], len(raw))
    return taskstats.accounts(layout.names, layout.unpack(raw))


VALUES = {name: (index + 1, 1000 * (index + 1)) for index, name in enumerate(taskstats.DELAYS)}


@pytest.mark.parametrize(
    "version, size, missing",
    [
        (8, 328, {"thrashing", "compact", "wpcopy", "irq"}),
        (9, 344, {"compact", "wpcopy", "irq"}),
        (12, 400, {"wpcopy", "irq"}),
        (13, 416, {"irq"}),
        (14, 432, set()),
        (16, 560, set()),
        (17, 700, set()),
    ],
)
def test_versions(version, size, missing):
    values = {name: pair for name, pair in VALUES.items() if PLACES[name] + 16 <= size}
    found = parse(made_up(version, size, PLACES, values))
    assert found == {
        name: (None, None) if name in missing else VALUES[name] for name in taskstats.DELAYS
    }


def test_version_15_has_the_extremes_in_between():
    # Every (count, total) is followed by max and min: 16 bytes more for each delay before it.
    order = ["cpu", "blkio", "swapin", "freepages", "thrashing", "compact", "wpcopy", "irq"]
    places = {name: PLACES[name] + 16 * index for index, name in enumerate(order)}
    assert parse(made_up(15, 560, places, VALUES)) == VALUES
    with pytest.raises(Unavailable):
        parse(made_up(15, 500, PLACES, {}))
    with pytest.raises(Unavailable):
        parse(bytes(560))


def test_an_overflowed_total_is_not_zero():
    assert parse(made_up(14, 432, PLACES, {"blkio": (7, 0)}))["blkio"] == (7, None)


FAMILY, STATS = 23, made_up(14, 432, PLACES, VALUES)


class Kernel:
    """A netlink socket whose other end answers as kernel/taskstats.c does.

    tasks: {number: struct taskstats}; room: how many answers fit into the socket's buffer.
    """

    def __init__(self, tasks, room=1000, error=errno.ESRCH):
        self.tasks, self.room, self.error, self.queue, self.sends = tasks, room, error, [], 0

    def bind(self, address):
        pass

    def send(self, data):
        self.sends += 1
        while data:
            length, kind, _, sequence, _ = struct.unpack_from("=IHHII", data)
            answer = self.answer(kind, sequence, data[:length])
            if len(self.queue) < self.room:
                self.queue.append(answer)
            data = data[length:]

    def answer(self, kind, sequence, request):
        (command,) = struct.unpack_from("=B", request, 16)
        ((attribute, payload),) = taskstats.attributes(request[20:]).items()
        if kind == 16:  # nlctrl
            assert (command, attribute, payload) == (3, 2, b"TASKSTATS\0")
            return self.message(kind, sequence, made_attribute(1, struct.pack("=H", FAMILY)))
        assert (kind, command) == (FAMILY, 1) and attribute in (1, 2)
        (number,) = struct.unpack("=I", payload)
        if number not in self.tasks:
            error = struct.pack("=i", -self.error) + request
            return struct.pack("=IHHII", 16 + len(error), 2, 0, sequence, 0) + error
        inner = made_attribute(attribute, payload) + made_attribute(3, self.tasks[number])
        return self.message(kind, sequence, made_attribute(attribute + 3, inner))

    def message(self, kind, sequence, payload):
        body = struct.pack("=BBH", 1, 1, 0) + payload
        return struct.pack("=IHHII", 16 + len(body), kind, 0, sequence, 0) + body

    def recv(self, size):
        return self.queue.pop(0)

    def recv_into(self, buffer, size, flags):
        assert flags == taskstats.socket.MSG_DONTWAIT
        if not self.queue:
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        answer = self.queue.pop(0)
        buffer[: len(answer)] = answer
        return len(answer)


made_attribute = attribute


@pytest.fixture
def connect(monkeypatch):
    def to(kernel):
        monkeypatch.setattr(taskstats.socket, "socket", lambda *args: kernel)
        return taskstats.Taskstats()

    return to


def other(number):
    return made_up(14, 432, PLACES, {"cpu": (number, 10 * number)})


@pytest.mark.parametrize("threads", [False, True])
def test_many_are_read_by_few_requests(connect, threads):
    kernel = Kernel({number: other(number) for number in range(1, 1000, 2)})
    source = connect(kernel)
    found = source.read(list(range(1, 1001)), threads)
    assert set(found) == set(range(1, 1000, 2)) and kernel.sends < 30
    for number, counters in found.items():
        assert taskstats.accounts(source.names, counters)["cpu"] == (number, 10 * number)
    assert source.read([]) == {} and source.read([2]) == {}


def test_answers_without_room_are_asked_for_again(connect):
    tasks = {number: other(number) for number in range(1, 201)}
    source = connect(Kernel(tasks, room=5))
    found = source.read(list(tasks))
    assert {number: counters[0] for number, counters in found.items()} == {n: n for n in tasks}
    kernel = Kernel(tasks)
    source = connect(kernel)
    kernel.room = 0
    with pytest.raises(Error, match="buffer space"):
        source.read([1])


def test_errors(connect):
    with pytest.raises(NotPermitted, match="CAP_NET_ADMIN"):
        connect(Kernel({}, error=errno.EPERM)).read([1])
    with pytest.raises(Error, match=os.strerror(errno.ENOMEM)):
        connect(Kernel({}, error=errno.ENOMEM)).read([1])
