# SPDX-License-Identifier: GPL-2.0-or-later
"""The reader of a ring buffer, on a file that has the pages of one (kernel/bpf/ringbuf.c)."""

import mmap
import os
import struct
from types import SimpleNamespace

import pytest

from crisis import bpf
from crisis.bpf.record import Layout

PAGE = mmap.PAGESIZE
BUSY, DISCARD = 1 << 31, 1 << 30


class Producer:
    """Writes what the kernel would: the consumer's page, its own, the data."""

    def __init__(self, size):
        self.size, self.position = size, 0
        self.fd = os.memfd_create("ring")
        os.ftruncate(self.fd, 2 * PAGE + size)

    def put(self, data, flags=0):
        header = struct.pack("=II", len(data) | flags, 0)
        for offset, byte in enumerate(header + data):
            at = (self.position + offset) % self.size
            os.pwrite(self.fd, bytes([byte]), 2 * PAGE + at)
        self.position += 8 + len(data) + 7 & ~7
        os.pwrite(self.fd, struct.pack("=Q", self.position), PAGE)

    def consumed(self):
        return struct.unpack("=Q", os.pread(self.fd, 8, 0))[0]


@pytest.fixture
def producer():
    made = Producer(PAGE)
    yield made
    os.close(made.fd)


def ring(producer, layout=None):
    return bpf.RingBuffer(SimpleNamespace(fd=producer.fd, max_entries=producer.size), layout)


def test_records_come_once_and_in_order(producer):
    reader = ring(producer, Layout("a:I b:I"))
    assert reader.read() == []
    for number in range(3):
        producer.put(struct.pack("=II", number, 7))
    assert [tuple(r) for r in reader.records()] == [(0, 7), (1, 7), (2, 7)]
    assert producer.consumed() == producer.position and reader.read() == []


def test_a_record_under_way_ends_the_reading_and_a_discarded_one_is_skipped(producer):
    reader = ring(producer)
    producer.put(b"discarded", DISCARD)
    producer.put(b"whole")
    before = producer.position
    producer.put(b"under way", BUSY)
    producer.put(b"behind")
    assert reader.read() == [b"whole"] and producer.consumed() == before


@pytest.mark.parametrize("length", (8, 20, 24, 40, 104, 1000))
def test_records_that_go_on_at_the_beginning_of_the_data(producer, length):
    """Whatever part of a record is behind the end of the data, up to all but its header."""
    reader, sent, found = ring(producer), [], []
    for number in range(4 * PAGE // (length + 8)):
        data = bytes((number + at) % 256 for at in range(length))
        producer.put(data)
        sent.append(data)
        found += reader.read()
    assert producer.position > 3 * PAGE and found == sent
