# SPDX-License-Identifier: GPL-2.0-or-later
"""What precedes a program's text, and what a kernel lacks for it; by BTF made by hand."""

import os

import pytest

from crisis import bpf
from crisis.bpf import btf as types
from crisis.bpf import builder, requirements
from made_btf import btf_of

KERNEL = (
    (types.INT, "int", 0, 4, [1 << 24 | 32]),
    (types.STRUCT, "request", 1, 4, ["tag", 1, 0]),
    (types.FUNC_PROTO, "", 0, 1, []),
    (types.FUNC, "bpf_session_is_return", 0, 3, []),
)


def request(**members):
    return bpf.Source("test.x", None, (("raw_tp/a:f",),), text="", **members).request()


@pytest.mark.parametrize(
    "members, why",
    [
        ({}, None),
        ({"requires": ("request",)}, None),
        ({"requires": ("request.tag",)}, None),
        ({"requires": ("request.rq_disk",)}, "this kernel has no request.rq_disk"),
        ({"requires": (("request.rq_disk", "request.tag"),)}, None),
        ({"requires": (("a.b", "c"),)}, "this kernel has no a.b or c"),
        ({"kfuncs": ("bpf_session_is_return",)}, None),
        ({"kfuncs": ("bpf_session_cookie",)}, "this kernel has no bpf_session_cookie"),
        ({"kfuncs": ("bpf_session_cookie?",)}, None),
        ({"arguments": ("sched_switch.prev",)}, "no tracepoint argument sched_switch.prev"),
        ({"arguments": ("sched_switch.prev?",)}, None),
    ],
)
def test_what_a_kernel_lacks(members, why):
    found = requirements.unusable(request(**members), btf_of(*KERNEL))
    assert found is None if why is None else found.endswith(why)


def test_a_kernel_without_btf():
    assert requirements.unusable(request(), None) is None
    for members in {"requires": ("request",)}, {"kfuncs": ("f?",)}, {"arguments": ("a.b?",)}:
        assert "CONFIG_DEBUG_INFO_BTF=y" in requirements.unusable(request(**members), None)


def test_macros():
    found = builder.macros(
        request(
            params=("pid", "tid"),
            counters=("lost",),
            defines={"BY": 3},
            has={"HAS_TAG": ("request.tag", "9.9"), "HAS_DISK": ("request.rq_disk", "2.6")},
            kfuncs=("bpf_session_cookie?", "bpf_session_is_return?"),
        ),
        btf_of(*KERNEL),
    )
    lines = dict(line.split(" ", 2)[1:] for line in found.splitlines())
    kfunc = lines.pop("KFUNC_bpf_session_is_return")
    assert int(kfunc) & 0xFFFF == 1  # its place in the list
    assert lines == {
        "HAS_TAG": "1",
        "BY": "3",
        "PARAM_pid": "0",
        "PARAM_tid": "1",
        "COUNTER_lost": "0",
        "COUNTERS": "1",
    }
    assert builder.macros(request(), btf_of(*KERNEL)) == ""


@pytest.mark.parametrize(
    "running, first, there",
    [
        ("5.10.0-28-amd64", "5.14", False),
        ("5.14.0-362.el9.x86_64", "5.14", True),
        ("6.1.0", "5.14", True),
        ("6.1.0", "6.12", False),
        ("7.2-rc1", "6.12", True),
    ],
)
def test_without_btf_the_release_decides(running, first, there, monkeypatch):
    uname = list(os.uname())
    uname[2] = running
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(uname))
    text = builder.macros(request(has={"HAS_IT": ("request.tag", first)}), None)
    assert text == ("#define HAS_IT 1\n" if there else "")


def test_programs_of_the_same_text_are_compiled_together():
    def one(name, text="text", **members):
        points = ((f"raw_tp/{name}:f",),)
        return dict(bpf.Source(name, None, points, text=text, **members).request(), headers="auto")

    alike = [
        one("a"),
        one("b", requires=("request",), constants=("C",), probes=("uprobe:f",)),
        one("c"),
    ]
    others = [
        one("d", defines={"BY": 1}),
        one("e", defines={"BY": 2}),
        one("f", params=("pid",)),
        one("g", counters=("lost",)),
        one("h", has={"HAS_TAG": ("request.tag", "9.9")}),
        one("i", arguments=("a.b?",)),
        one("j", kfuncs=("f?",)),
        one("k", text="another text"),
        dict(one("l"), headers="kernel"),
    ]
    requests = [alike[0], *others, alike[1], alike[2]]
    for request in requests:  # of a text in place of a file, the name is in the text
        request["text"] = request["text"].replace(request["name"], "x")
    found = builder.groups(requests)
    assert found == [[0, 10, 11], *([number] for number in range(1, 10))]
