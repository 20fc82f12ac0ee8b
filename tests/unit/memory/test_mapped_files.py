# SPDX-License-Identifier: GPL-2.0-or-later
"""Files that processes have mapped or open, in a tree of files."""

import os

import pytest

from crisis.errors import Error
from crisis.memory.mapped_files import mappers, process_files


def test_files_of_a_process_by_name_where_map_files_is_closed(tmp_path):
    base = tmp_path / "proc" / "7"
    (base / "fd").mkdir(parents=True)
    library, gone = tmp_path / "lib.so", tmp_path / "gone (deleted)"
    library.write_bytes(b"x")
    os.symlink(str(library), str(base / "fd" / "3"))
    other = tmp_path / "other"
    other.write_bytes(b"y")
    os.symlink("/dev/null", str(base / "fd" / "0"))
    st = os.stat(str(other))
    device = f"{os.major(st.st_dev):02x}:{os.minor(st.st_dev):02x}"
    (base / "maps").write_text(
        f"1000-2000 r-xp 00000000 {device} {os.stat(str(library)).st_ino}    {library}\n"
        + f"00400000-00401000 r--p 00000000 {device} {st.st_ino}    {other}\n"
        + f"3000-4000 r--p 00000000 {device} 99999999    {gone}\n"
        + "5000-6000 rw-p 00000000 00:00 0    [heap]\n6000-7000 rw-p 00000000 00:00 0\n"
    )
    (base / "map_files").mkdir()
    os.symlink(str(other), str(base / "map_files" / "400000-401000"))
    found, unreachable = process_files(7, str(tmp_path))
    assert found == [
        (str(library), str(base / "fd" / "3")),
        (str(other), str(base / "map_files" / "400000-401000")),
    ]
    with pytest.raises(Error, match="no such process"):
        process_files(8, str(tmp_path))
    (base / "comm").write_text("na\nme\n")
    mapped = mappers(str(tmp_path))
    assert (
        mapped[str(other)]
        == mapped[os.major(st.st_dev), os.minor(st.st_dev), st.st_ino]
        == {7: "na\nme"}
    )
