# SPDX-License-Identifier: GPL-2.0-or-later
"""Compiled programs as bytes."""

import pytest

from crisis.bpf import object


def test_object_survives_and_notices_every_flipped_bit():
    meta = {
        "name": "t",
        "unusable": None,
        "compiler": "bcc 0.26.0",
        "points": [],
        "probes": [],
        "maps": [],
        "layouts": {},
        "functions": [["f", 8, [], []]],
        "ids": {},
        "constants": {},
        "counters": [],
    }
    data = object.pack(meta, b"12345678")
    assert object.unpack(data).functions["f"][0] == b"12345678"
    for at in range(len(data)):
        broken = bytearray(data)
        broken[at] ^= 1
        with pytest.raises(ValueError):
            object.unpack(bytes(broken))
    for length in range(len(data)):
        with pytest.raises(ValueError):
            object.unpack(data[:length])


def test_object_keeps_everything():
    meta = {
        "name": "t.x",
        "unusable": None,
        "compiler": "bcc 0.26.0",
        "points": [["tp_btf/a:f", "raw_tp/a:f"], ["kprobe/b:g"]],
        "probes": ["uprobe:f", "uretprobe:g"],
        "maps": [["m", 1, 4, 8, 16, 0, "I", "block"]],
        "layouts": {"block": "size:I 4x"},
        "functions": [["f", 16, [[0, 0]], [[8, "p"]]], ["g", 8, [], []]],
        "ids": {"tp_btf/a": 7, "fentry/b": None},
        "constants": {"C": -1},
        "counters": ["lost"],
    }
    obj = object.unpack(object.pack(meta, b"\n" * 24))
    assert obj.functions == {"f": (b"\n" * 16, [(0, 0)], [(8, "p")]), "g": (b"\n" * 8, [], [])}
    assert (obj.name, obj.unusable, obj.points, obj.maps) == (
        "t.x",
        None,
        meta["points"],
        meta["maps"],
    )
    assert (obj.ids, obj.constants, obj.counters) == (
        meta["ids"],
        meta["constants"],
        meta["counters"],
    )
    assert obj.compiler == "bcc 0.26.0"
    assert obj.probes == meta["probes"] and obj.layouts == meta["layouts"]
    meta.update(unusable="why\nnot\t", functions=[])
    assert object.unpack(object.pack(meta, b"")).unusable == "why not"
