# SPDX-License-Identifier: GPL-2.0-or-later
"""Saved lists of pages."""

import os

import pytest

from crisis.memory import PAGE, saved_pages


def test_a_saved_line_is_bytes():
    found = saved_pages.parse(
        b'{"file":"/a","size_bytes":9,"mtime_ns":1,"page_bytes":65536,"ranges":[[0,1],[3,2]]}'
    )
    assert (found.name, found.size, found.mtime) == ("/a", 9, 1)
    assert found.ranges == [(0, 65536), (3 * 65536, 5 * 65536)]


def test_what_is_saved_is_parsed(tmp_path, monkeypatch):
    path = os.fsencode(str(tmp_path)) + b"/a\xff,b"
    with open(path, "wb"):
        pass
    st, name = os.stat(path), os.fsdecode(path)
    monkeypatch.setattr(saved_pages, "_MOST_RANGES", 2)
    runs = [(0, 1), (5, 2), (9, 1)]
    lines = [line.encode() for line in saved_pages.lines(name, st, 10 * PAGE, runs)]
    found = [saved_pages.parse(line) for line in lines]
    assert [one.name for one in found] == [name] * 2 and {one.mtime for one in found} == {
        st.st_mtime_ns
    }
    assert [span for one in found for span in one.ranges] == [
        (n * PAGE, (n + count) * PAGE) for n, count in runs
    ]
    for line in lines:
        for broken in (
            line[:-5],
            line.replace(b"[0", b"[-1"),
            line.replace(b"[5", b"[5.5"),
            line.replace(b'"file"', b'"f"'),
        ):
            if broken != line:
                with pytest.raises(ValueError):
                    saved_pages.parse(broken)
