# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel's types, and the headers made of them."""

import pytest

from crisis.bpf import btf as types
from crisis.bpf import header
from made_btf import btf_of


def test_headers_of_a_struct_and_an_enum_of_one_name():
    """C has one name space for tags; Debian's kernels have a struct context and an enum context."""
    btf = btf_of(
        (types.INT, "int", 0, 4, [1 << 24 | 32]),
        (types.ENUM, "context", 1, 4, ["IN_CONTEXT", 7]),
        (types.STRUCT, "context", 1, 4, ["user", 1, 0]),
        (types.STRUCT, "prose", 1, 4, ["verse", 1, 0]),
    )
    text = header.prune(
        btf, "/* some\n prose */ int f(struct context *c) { return c->user; }  // prose\n"
    )
    assert "struct context {" in text and "enum context" not in text and "prose" not in text


def test_what_a_kernel_has():
    btf = btf_of(
        (types.INT, "int", 0, 4, [1 << 24 | 32]),
        (types.ENUM, "bpf_func_id", 1, 4, ["BPF_FUNC_get_attach_cookie", 174]),
        (types.STRUCT, "file", 1, 4, ["f_mode", 1, 0]),
        (types.FUNC_PROTO, "", 0, 1, []),
        (types.FUNC, "filemap_read", 0, 4, []),
    )
    names = ("file", "file.f_mode", "bpf_func_id", "BPF_FUNC_get_attach_cookie", "filemap_read")
    assert [name for name in names if not btf.has(name)] == []
    assert (
        not btf.has("file.f_pos")
        and not btf.has("BPF_FUNC_task_storage_get")
        and not btf.has("f_mode")
    )


def test_headers_refuse_what_is_not_btf():
    for data in b"", b"\x9f\xeb\x01", b"\0" * 64:
        with pytest.raises(ValueError):
            types.Btf(data)
