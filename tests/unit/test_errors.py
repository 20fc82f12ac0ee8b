# SPDX-License-Identifier: GPL-2.0-or-later
"""Errors with remedies."""

import errno
import resource

from crisis.errors import Error, file_limit


def test_the_limit_of_open_files_is_named():

    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    assert f"the limit of {soft} on open files" in str(
        file_limit(OSError(errno.EMFILE, "x", "/some/file"))
    )
    assert "fs.file-max" in str(file_limit(OSError(errno.ENFILE, "x")))
    assert file_limit(OSError(errno.ENOENT, "x")) is None and file_limit(Error("x")) is None
