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
from binascii import crc32

from .. import __version__
from ..kernel import build as kernel
from .object import MAGIC, unpack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .object import Object
    from .source import Source

__all__ = [
    "CACHE",
    "build",
    "cached",
    "keep",
    "key",
    "load",
    "made_from",
    "packed",
    "prune",
    "replace",
    "store",
]

CACHE = "/var/cache/crisis-tools"
_LIMIT = 1 << 24  # bytes; no object comes near
_PARTS = 5  # of made_from()


def made_from(source: Source, headers: str = "auto") -> bytes:
    """All that the object depends on.

    Not the compiler: each makes a right object of the text.  So an entry outlives bcc's upgrade,
    and one that was imported is used without bcc.
    """
    parts = (
        __version__.encode(),
        headers.encode(),
        repr(source.request()).encode(),
        "\0".join(kernel.running()).encode(),
    )
    return b"".join(b"%d:" % len(part) + part for part in (MAGIC, *parts))


def _parts(data: bytes) -> list[bytes]:
    """What made_from() has joined, of the bytes of an entry.  Raises ValueError."""
    parts, at = [], 0
    for _ in range(_PARTS):
        begin = data.index(b":", at) + 1
        at = begin + int(data[at : begin - 1])
        parts.append(data[begin:at])
    return parts


def _name(source: Source, facts: bytes) -> str:
    """The file's name: command, variant, a checksum of the facts, which the file then repeats."""
    return f"{source.name}-{crc32(facts):08x}"


def key(source: Source, headers: str = "auto") -> str:
    """The name of a source's entry."""
    return _name(source, made_from(source, headers))


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
    data, warning = _read(name, facts, path)
    if data is None:
        return None, warning
    try:
        return unpack(data), None
    except ValueError as exc:
        return None, _not_used(name, exc)


def _read(name: str, facts: bytes, path: str) -> tuple[bytes | None, str | None]:
    """As load(), with the bytes of the object."""
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
        return data[len(facts) :], None
    except (OSError, ValueError) as exc:
        return None, _not_used(name, exc)
    finally:
        os.close(fd)


def _not_used(name: str, exc: Exception) -> str:
    return f"cached program {name} not used: {_reason(exc)}; it is built again"


def store(name: str, data: bytes, path: str = CACHE) -> str | None:
    """Put an entry in place atomically; None, or a warning that says why it was not kept."""
    try:
        directory = _open_cache(path, create=True)
    except (OSError, ValueError) as exc:
        return f"program not cached: {_reason(exc, path)}"
    try:
        replace(directory, name, data, 0o600)
        return None
    except OSError as exc:
        return f"program not cached: {_reason(exc, path)}"
    finally:
        os.close(directory)


def replace(directory: int, name: str, data: bytes, mode: int) -> None:
    """Make a file of a directory, or replace it, atomically.

    directory: its descriptor.  mode: of the file, less the umask.  Raises OSError.
    """
    temporary = f".{name}.{os.getpid()}.{os.urandom(8).hex()}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        fd = os.open(temporary, flags, mode, dir_fd=directory)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
    except OSError:
        try:
            os.unlink(temporary, dir_fd=directory)
        except OSError:
            pass
        raise


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
    facts = made_from(source, headers)
    found, warning = load(_name(source, facts), facts, path)
    if warning:
        warn(warning)
    return found


def packed(source: Source, path: str = CACHE) -> bytes | None:
    """The bytes of a source's Object from the cache, not checked, or None."""
    facts = made_from(source)
    return _read(_name(source, facts), facts, path)[0]


def keep(source: Source, data: bytes, headers: str = "auto", path: str = CACHE) -> str | None:
    """Put the bytes of a compiled source into the cache.

    Returns None, or a warning that says why they were not kept.
    """
    facts = made_from(source, headers)
    return store(_name(source, facts), facts + data, path)


def prune(path: str = CACHE, root: str = "/") -> int:
    """Remove the entries that no boot of this machine can use; returns how many.

    They are of another release of the suite, of a build of the running kernel's release that an
    update has replaced, or of a kernel that is not installed any more.
    """
    try:
        directory = _open_cache(path)
    except (OSError, ValueError):
        return 0
    removed, running = 0, kernel.running()
    try:
        for name in os.listdir(directory):
            try:
                if _is_stale(name, directory, running, root):
                    os.unlink(name, dir_fd=directory)
                    removed += 1
            except (OSError, ValueError):
                pass  # another process has removed it, or it is none of ours
    finally:
        os.close(directory)
    return removed


def _is_stale(name: str, directory: int, running: tuple[str, ...], root: str) -> bool:
    """Whether an entry is to be removed.  Raises OSError, and ValueError for any other file."""
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=directory)
    with open(fd, "rb") as f:
        _, version, _, _, made_for = _parts(f.read(_LIMIT))
    build = tuple(os.fsdecode(made_for).split("\0"))
    if version != __version__.encode():
        return True
    if build[0] == running[0]:
        return build != running
    return not os.path.isdir(os.path.join(root, "lib/modules", build[0]))
