# SPDX-License-Identifier: GPL-2.0-or-later
"""Which files -O names."""

import pytest

from crisis.alloc import sites

LIBC, OLD_LIBC, JEMALLOC = (
    "/usr/lib/x86_64-linux-gnu/libc.so.6",
    "/lib/libc-2.31.so",
    "/usr/lib/libjemalloc.so.2",
)


@pytest.mark.parametrize(
    "wanted, right, wrong",
    [
        (
            "c",
            [LIBC, OLD_LIBC],
            ["/lib/libcap.so.2", "/lib/libc-client.so.2007", "/lib/libstdc++.so.6"],
        ),
        ("libc", [LIBC, OLD_LIBC], ["/lib/libcap.so.2", "/lib/libcrypt.so.1"]),
        ("libc.so", [LIBC, OLD_LIBC], ["/lib/libc_malloc_debug.so.0", "/lib/libc-client.so.2007"]),
        ("libc.so.6", [LIBC, OLD_LIBC], ["/lib/libc-client.so.2007", "/lib/libc.so.61", JEMALLOC]),
        ("libc-2.31.so", [OLD_LIBC], [LIBC]),
        ("jemalloc", [JEMALLOC], [LIBC]),
        ("libjemalloc", [JEMALLOC], [LIBC]),
        ("libjemalloc.so.2", [JEMALLOC], ["/lib/libjemalloc.so.1"]),
        ("libstdc++.so.6", ["/lib/libstdc++.so.6.0.30"], [LIBC]),
        (JEMALLOC, [JEMALLOC], ["/opt/libjemalloc.so.2"]),
        ("server", ["/opt/server"], ["/opt/servers", LIBC]),
        ("/opt/server", ["/opt/server"], ["/usr/bin/server"]),
    ],
)
def test_objects(wanted, right, wrong):
    assert [path for path in right + wrong if sites.is_object(wanted, path)] == right
