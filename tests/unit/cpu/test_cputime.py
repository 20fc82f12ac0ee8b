# SPDX-License-Identifier: GPL-2.0-or-later
"""/proc/stat."""

from crisis.cpu import cputime


def test_busy_ticks(tmp_path):
    (tmp_path / "proc").mkdir()
    assert cputime.busy_ticks(str(tmp_path)) == {}
    (tmp_path / "proc/stat").write_text(
        "cpu  9 9 9 9 9 9 9 9 9 9\ncpu0 1 2 3 400 50 6 7 8 9 9\n"
        "cpu12 1 0 0 400 0 0 0 0 0 0\nintr 5\n"
    )
    assert cputime.busy_ticks(str(tmp_path)) == {0: 27, 12: 1}
