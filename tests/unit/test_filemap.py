# SPDX-License-Identifier: GPL-2.0-or-later
"""Names of files from what the kernel says, without root."""

from crisis.bpf.record import Record
from crisis.memory import file_names

FILE, DIRECTORY = 0o100644, 0o040755


def dev(major, minor):
    return major << 20 | minor


def test_named():
    fields = ["inode", "ino", "name", "dev", "rdev", "mode", "deleted", "cut", "length", "path"]
    layout = Record.named("name_record", fields)

    def named(path, mode=FILE, deleted=0, cut=0):
        record = layout(
            (
                0xFFFF888000000000,
                12,
                34,
                dev(8, 1),
                0,
                mode,
                deleted,
                cut,
                len(path),
                path + b"rest",
            )
        )
        return file_names.File.named(record)

    file = named(b"file\xff\0dir\0", deleted=1)
    assert (file.ino, file.dev) == (12, dev(8, 1))
    assert file.path == "/dir/file\udcff" and file.deleted and not file.cut
    assert named(b"").path is None
    assert named(b"", mode=DIRECTORY).path == "/"
    assert file_names.device(file.dev) == "8:1"
