# SPDX-License-Identifier: GPL-2.0-or-later
"""The cache of compiled programs.

It holds code that root will load into the kernel.  So an entry is used only
from a directory chain that root owns and nobody else can write (0700 or
0755), is opened without following links, must be root's own regular file with
mode 0600, must begin with all that it was made from, and must carry the checksum of the object.
Anything else is ignored and rebuilt.
"""

from __future__ import annotations

import os
import stat
import sys
from binascii import crc32

from .. import __version__
from .object import MAGIC, unpack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .object import Object
    from .source import Source

__all__ = ["CACHE", "build", "cached", "keep", "key", "load", "store"]

CACHE = "/var/cache/crisis-tools"
_LIMIT = 1 << 24  # bytes; no object comes near


def _kernel_id() -> bytes:
    """What identifies this kernel build: uname and the GNU build ID."""
    uname = os.uname()
    try:
        with open("/sys/kernel/notes", "rb") as f:
            notes = f.read(4096)
    except OSError:
        notes = b""
    return "\0".join((uname.release, uname.version, uname.machine)).encode() + b"\0" + notes


def bcc_directory() -> str | None:
    """The directory of bcc's Python package that a child without our -S would import, or None."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for base in "/usr/local/lib", "/usr/lib", "/usr/lib64", "/usr/local/lib64":
        for path in (
            f"{base}/python3/dist-packages",
            f"{base}/{version}/dist-packages",
            f"{base}/{version}/site-packages",
        ):
            if os.path.exists(os.path.join(path, "bcc/__init__.py")):
                return os.path.join(path, "bcc")
    return None


def _bcc_id() -> bytes:
    directory = bcc_directory()
    if directory is None:
        return b""
    path = os.path.join(directory, "version.py")
    try:
        with open(path, "rb") as f:
            return f.read(256) + b"%d" % os.fstat(f.fileno()).st_mtime_ns
    except OSError:
        return directory.encode()


def _facts(source: Source, headers: str) -> bytes:
    """All that the object depends on."""
    parts = (
        __version__.encode(),
        headers.encode(),
        repr(source.request()).encode(),
        _kernel_id(),
        _bcc_id(),
    )
    return b"".join(b"%d:" % len(part) + part for part in (MAGIC, *parts))


def _name(source: Source, facts: bytes) -> str:
    """The file's name: command, variant, a checksum of the facts, which the file then repeats."""
    return f"{source.name}-{crc32(facts):08x}"


def key(source: Source, headers: str = "auto") -> str:
    """The name of a source's entry."""
    return _name(source, _facts(source, headers))


def _open_cache(path: str, create: bool = False) -> int:
    """A descriptor of the cache directory, checked.

    Raises OSError, or ValueError with the objection.
    """
    uid = os.geteuid()
    # A link above the directory is its administrator's wish, and is checked where it leads.
    path = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
    fd = os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        parts = [part for part in path.split("/") if part]
        for i, part in enumerate(parts):
            last = i == len(parts) - 1
            if create and last:
                try:
                    os.mkdir(part, 0o700, dir_fd=fd)
                except FileExistsError:
                    pass
            here = "/" + "/".join(parts[: i + 1])
            if last and stat.S_ISLNK(os.stat(part, dir_fd=fd, follow_symlinks=False).st_mode):
                raise ValueError(f"{here} is a symbolic link")
            below = os.open(
                part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd
            )
            os.close(fd)
            fd = below
            info = os.fstat(fd)
            if info.st_uid not in (0, uid):
                raise ValueError(f"{here} belongs to uid {info.st_uid}")
            if info.st_mode & 0o022 and (last or not info.st_mode & stat.S_ISVTX):
                raise ValueError(
                    f"{here} can be written by others (mode {info.st_mode & 0o7777:04o})"
                )
        return fd
    except BaseException:
        os.close(fd)
        raise


def load(name: str, facts: bytes, path: str = CACHE) -> tuple[Object | None, str | None]:
    """(Object, None) from the cache.

    (None, None) when it has none, (None, warning) for one that it must not use.
    """
    try:
        directory = _open_cache(path)
    except FileNotFoundError:
        return None, None
    except PermissionError:
        return None, None
    except (OSError, ValueError) as exc:
        return None, f"program cache not used: {_reason(exc, path)}"
    try:
        fd = os.open(
            name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=directory
        )
    except FileNotFoundError:
        return None, None
    except OSError as exc:
        return None, f"cached program not used: {_reason(exc, os.path.join(path, name))}"
    finally:
        os.close(directory)
    try:
        info = os.fstat(fd)
        if (
            not stat.S_ISREG(info.st_mode)
            or info.st_uid != os.geteuid()
            or info.st_mode & 0o177
            or info.st_nlink != 1
            or info.st_size > _LIMIT
        ):
            raise ValueError("not our own file with mode 0600")
        data = b""
        while len(data) <= info.st_size:
            piece = os.read(fd, info.st_size + 1 - len(data))
            if not piece:
                break
            data += piece
        if not data.startswith(facts):
            raise ValueError("it was not made from this source")
        return unpack(data[len(facts) :]), None
    except (OSError, ValueError) as exc:
        return None, f"cached program {name} not used: {_reason(exc)}; it is built again"
    finally:
        os.close(fd)


def store(name: str, data: bytes, path: str = CACHE) -> str | None:
    """Put an entry in place atomically; None, or a warning that says why it was not kept."""
    try:
        directory = _open_cache(path, create=True)
    except (OSError, ValueError) as exc:
        return f"program not cached: {_reason(exc, path)}"
    temporary = f".{name}.{os.getpid()}.{os.urandom(8).hex()}"
    try:
        fd = os.open(
            temporary,
            os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC,
            0o600,
            dir_fd=directory,
        )
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
        return None
    except OSError as exc:
        try:
            os.unlink(temporary, dir_fd=directory)
        except OSError:
            pass
        return f"program not cached: {_reason(exc, path)}"
    finally:
        os.close(directory)


def _reason(exc: Exception, path: str = "") -> str:
    if isinstance(exc, OSError):
        return f"{path}: {exc.strerror}" if path else str(exc.strerror)
    return str(exc)


def build(
    source: Source,
    cache: bool = True,
    warn: Callable[[str], object] = lambda text: None,
    headers: str = "auto",
    path: str = CACHE,
) -> Object:
    """The Object of a source: from the cache, else compiled by bcc in a child and put there.

    warn: called with a line for each thing that the user should know.
    headers: "btf" or "kernel" to use only that source of types.
    Raises Unavailable without any source of types (NoCompiler without bcc), NotPermitted, Stopped,
    and Error when the text does not compile.
    """
    if cache:
        found = cached(source, warn, headers, path)
        if found is not None:
            return found
    from .compiler import compiled  # most starts need neither
    from .syscall import check_permission

    check_permission()
    data = compiled(source, headers)
    if cache:
        warning = keep(source, data, headers, path)
        if warning and os.geteuid() == 0:
            warn(warning)
    return unpack(data)


def cached(
    source: Source,
    warn: Callable[[str], object] = lambda text: None,
    headers: str = "auto",
    path: str = CACHE,
) -> Object | None:
    """The Object of a source from the cache, or None."""
    facts = _facts(source, headers)
    found, warning = load(_name(source, facts), facts, path)
    if warning:
        warn(warning)
    return found


def keep(source: Source, data: bytes, headers: str = "auto", path: str = CACHE) -> str | None:
    """Put the bytes of a compiled source into the cache.

    Returns None, or a warning that says why they were not kept.
    """
    facts = _facts(source, headers)
    return store(_name(source, facts), facts + data, path)
