# SPDX-License-Identifier: GPL-2.0-or-later
"""What a command says when it cannot go on: one line and an exit status.

A helper raises one of these; only `cli.run` prints it and exits.  The text
reads "cannot X: why. remedy" and the status follows sysexits.h where it has
a word for the case.
"""

__all__ = ["Error", "Usage", "Unavailable", "NotPermitted", "Stopped", "without_remedy", "file_limit"]


class Error(Exception):
    """The command failed (exit status 1)."""

    status = 1


class Usage(Error):
    """An argument is malformed or contradicts another one (exit status 2)."""

    status = 2


class Unavailable(Error):
    """This kernel or CPU does not have what the command needs (EX_UNAVAILABLE)."""

    status = 69


class NotPermitted(Error):
    """The kernel refused for lack of a capability (EX_NOPERM)."""

    status = 77


class Stopped(Exception):
    """SIGINT or SIGTERM arrived, or the reader of stdout went, before there was anything to report (exit status 0)."""


def without_remedy(error):
    """The text of an error up to the remedy (". Try: modprobe msr"), for where that would not help."""
    return str(error).partition(". Try")[0]


def file_limit(exc):
    """The Error that names the limit, for an OSError that says that no more files can be opened; None for any other."""
    import errno
    code = getattr(exc, "errno", None)
    if code == errno.EMFILE:
        try:
            import resource
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            limit, option = " of %d" % soft, "-Hn" if soft == hard else "-Sn"
        except ImportError:             # which takes a descriptor
            limit, option = "", "-n"
        return Error("cannot open another file: the limit%s on open files is reached. Raise it with ulimit %s"
                     % (limit, option))
    if code == errno.ENFILE:
        return Error("cannot open another file: the system-wide limit is reached. Raise it with sysctl fs.file-max")
    return None
