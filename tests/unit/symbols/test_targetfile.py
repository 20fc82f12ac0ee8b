# SPDX-License-Identifier: GPL-2.0-or-later
"""Files whose names or contents a traced process controls."""

import errno
import os
import socket

import pytest

from crisis.symbols import targetfile


def code_of(*arguments, **options):
    with pytest.raises(OSError) as caught:
        targetfile.open_regular(*arguments, **options)
    return caught.value.errno


def test_a_regular_file(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    fd = targetfile.open_regular(str(tmp_path / "file"))
    try:
        assert os.read(fd, 9) == b"abc" and not os.get_inheritable(fd)
        with pytest.raises(OSError):
            os.write(fd, b"x")
    finally:
        os.close(fd)


def test_what_is_not_a_regular_file(tmp_path):
    """Nothing of these is opened: neither does it block, nor does a device act."""
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "directory").mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        for name in "fifo", "directory", "socket":
            assert code_of(str(tmp_path / name)) == errno.EINVAL
    assert code_of("/dev/null") == errno.EINVAL
    assert code_of(str(tmp_path / "none")) == errno.ENOENT


def test_links(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "null").symlink_to("/dev/null")
    assert code_of(str(tmp_path / "link")) == errno.EINVAL
    os.close(targetfile.open_regular(str(tmp_path / "link"), follow=True))
    assert code_of(str(tmp_path / "null"), follow=True) == errno.EINVAL


def test_whose_file_it_is(tmp_path):
    path = str(tmp_path / "file")
    with open(path, "w"):
        pass
    own, other = (targetfile.owned_by(os.geteuid() + more) for more in (0, 1))
    os.close(targetfile.open_regular(path, own))
    assert code_of(path, other) == code_of(path, targetfile.owned_by(None)) == errno.ESTALE
    os.chmod(path, 0o640)
    assert code_of(path, targetfile.readable_by_all) == errno.ESTALE
    os.chmod(path, 0o644)
    os.close(targetfile.open_regular(path, targetfile.readable_by_all))


def test_a_directory_that_is_held(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    directory = os.open(tmp_path, os.O_PATH)
    try:
        os.close(targetfile.open_regular("file", dir_fd=directory))
    finally:
        os.close(directory)


@pytest.mark.parametrize(
    "status, found",
    [
        ("Name:\tx\nUid:\t1\t2\t3\t4\nNSpid:\t77\t5\t3\n", (2, 3)),
        ("Name:\tUid:\t9\nUid:\t0\t0\t0\t0\nNSpid:\t77\n", (0, 77)),
        ("Name:\tx\nUid:\t0\t0\t0\t0\n", ValueError),
        ("Uid:\t0\nNSpid:\t77\n", ValueError),
        ("Uid:\ta\tb\tc\td\nNSpid:\t77\n", ValueError),
        ("", ValueError),
    ],
)
def test_credentials(tmp_path, status, found):
    (tmp_path / "status").write_text(status)
    directory = os.open(tmp_path, os.O_PATH)
    try:
        if found is ValueError:
            with pytest.raises(ValueError):
                targetfile.credentials(directory)
        else:
            assert targetfile.credentials(directory) == found
    finally:
        os.close(directory)
