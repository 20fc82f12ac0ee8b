# SPDX-License-Identifier: GPL-2.0-or-later
"""The errors that end a command: one line and an exit status.

A helper raises one of these; only `cli.run` prints it and exits.  The text
reads "cannot X: why. remedy", and the status is that of sysexits.h where it
has a code for the case.
"""

from __future__ import annotations

__all__ = [
    "Error",
    "Usage",
    "Unavailable",
    "NotPermitted",
    "Stopped",
    "without_remedy",
    "file_limit",
]


class Error(Exception):
    """The command failed (exit status 1)."""

    status = 1


class Usage(Error):
    """An argument is malformed or contradicts another one (exit status 2)."""

    status = 2


class Unavailable(Error):
    """This kernel or CPU lacks what the command needs (EX_UNAVAILABLE)."""

    status = 69


class NotPermitted(Error):
    """The kernel refused for lack of a capability (EX_NOPERM)."""

    status = 77


class Stopped(Exception):
    """A stop before there was anything to report (exit status 0).

    SIGINT or SIGTERM arrived, or the reader of stdout closed its end.
    """


def without_remedy(error: Exception) -> str:
    """The text of an error up to its remedy (". Try: modprobe msr"), where that would not help."""
    return str(error).partition(". Try")[0]


def file_limit(exc: BaseException) -> Error | None:
    """The error that names the limit on open files that an OSError ran into.

    Returns None for any other exception than EMFILE and ENFILE.
    """
    import errno

    code = getattr(exc, "errno", None)
    if code == errno.ENFILE:
        return Error(
            "cannot open another file: the system-wide limit is reached. "
            "Raise it with sysctl fs.file-max"
        )
    if code != errno.EMFILE:
        return None
    try:
        import resource
    except ImportError:  # the import, too, needs a descriptor
        limit, option = "", "-n"
    else:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        limit, option = f" of {soft}", "-Hn" if soft == hard else "-Sn"
    return Error(
        f"cannot open another file: the limit{limit} on open files is reached. "
        f"Raise it with ulimit {option}"
    )
