# SPDX-License-Identifier: GPL-2.0-or-later
"""The files below the arguments, opened without waiting, following or dating anything."""

from __future__ import annotations

import errno
import os
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import Any

    # The directory with its slash or "", the name, a descriptor, stat, the size, whether it was
    # seen before.
    _File = tuple[str, str, int, os.stat_result, int, bool]
    _OnError = Callable[[str, str, Any], None]
    _Match = Callable[[str, str], object]

__all__ = ["Walk"]

_KINDS = {stat.S_IFIFO: "FIFO", stat.S_IFSOCK: "socket", stat.S_IFCHR: "character device"}
_SORTED = 1 << 16  # entries of a directory that are sorted at a time, to bound the memory
_HASH = 0x9E3779B1  # Knuth's multiplicative hash, of inode numbers to shares


class Walk:
    """The files below the arguments, each inode once.

    exclude: shell patterns of files and directories to leave out; include: of files to give, [] for
    all.  A pattern is one of names, or of paths if it has a slash.
    sizes: (smallest, largest) in bytes of the files to give.
    ordered: give the files of each directory by name, then those of its directories.
    one_file_system: do not enter a directory on another file system than its argument's.
    follow: follow symbolic links inside directories too; each directory is entered once.
    share: (k, n): only the k-th of n parts; links to one inode are in the same part.
    on_error(path, what, exception or text): called for what cannot be read.
    stopping(): True ends the walk.
    """

    def __init__(
        self,
        exclude: Sequence[str] = (),
        one_file_system: bool = False,
        follow: bool = False,
        share: tuple[int, int] = (0, 1),
        on_error: _OnError = lambda path, what, why: None,
        stopping: Callable[[], bool] = lambda: False,
        include: Sequence[str] = (),
        sizes: tuple[int, int] = (0, 1 << 63),
        ordered: bool = True,
    ) -> None:
        self.excluded = _matcher(exclude)
        self._unwanted = _unwanted(self.excluded, _matcher(include))
        self._smallest, self._largest = sizes
        self._ordered = ordered
        self.one_file_system, self.follow, self.share = one_file_system, follow, share
        self.on_error, self.stopping = on_error, stopping
        # Files that went between the directory's reading and the opening.
        self.vanished = 0
        self.too_small = self.too_large = 0  # files that `sizes` has left out
        self._seen: set[tuple[int, int]] = set()  # (dev, ino) of files with several links
        self._directories: set[tuple[int, int]] = set()  # the same of directories, when following
        self._noatime = os.O_NOATIME

    def files(self, paths: Iterable[str]) -> Iterator[_File]:
        """Yield (directory with its slash or "", name, fd, stat_result, size, seen before).

        The descriptor is closed before the next file is opened.  A file named
        by an argument is always given, later links found in a directory never.
        """
        for path in paths:
            if self.stopping():
                return
            yield from self._named(path)

    def _named(self, path: str) -> Iterator[_File]:
        first = not self.share[0]
        try:
            st = os.stat(path)
            kind = stat.S_IFMT(st.st_mode)
        except (OSError, ValueError) as exc:
            if first:
                self.on_error(path, "open", exc)
            return
        directory = kind == stat.S_IFDIR
        refuses = self.excluded if directory else self._unwanted
        if refuses and refuses(os.path.basename(path.rstrip("/")), path):
            return
        if directory:
            yield from self._tree(path)
        elif kind not in (stat.S_IFREG, stat.S_IFBLK):
            if first:
                self.on_error(path, "measure", "it is a " + _KINDS[kind])
        elif self._mine(st.st_ino):
            try:
                fd = self._open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
            except OSError as exc:
                self.on_error(path, "open", exc)
                return
            try:
                st = os.fstat(fd)
                block = stat.S_ISBLK(st.st_mode)
                size = os.lseek(fd, 0, os.SEEK_END) if block else st.st_size
                if not self._smallest <= size <= self._largest:
                    self._left_out(size)
                    return
                again = False
                if not block and (st.st_nlink > 1 or self.follow):
                    again = (st.st_dev, st.st_ino) in self._seen
                    self._seen.add((st.st_dev, st.st_ino))
                yield "", path, fd, st, size, again
            finally:
                os.close(fd)

    def _mine(self, inode: int) -> bool:
        number, parts = self.share
        return parts == 1 or (inode * _HASH >> 16) % parts == number

    def _open(self, path: str, flags: int, dir_fd: int | None = None) -> int:
        """open(2), leaving the time of access alone where the caller may do that."""
        if self._noatime:
            try:
                return os.open(path, flags | self._noatime, dir_fd=dir_fd)
            except PermissionError as exc:
                if exc.errno != errno.EPERM:
                    raise
                self._noatime = 0  # somebody else's file; the next ones probably too
        return os.open(path, flags, dir_fd=dir_fd)

    def _open_directory(self, path: str, flags: int) -> int:
        try:
            return self._open(path, flags)
        except OSError as exc:
            if exc.errno != errno.ENAMETOOLONG:
                raise
        # Deeper than PATH_MAX: by pieces.
        above: int | None = None
        fd: int | None = None
        try:
            while path:
                cut = path.rfind("/", 1, 2048) + 1 if len(path) > 2048 else len(path)
                piece, path = path[: cut or len(path)], path[cut or len(path) :].lstrip("/")
                above, fd = (
                    fd,
                    os.open(piece, flags if not path else flags & ~os.O_NOFOLLOW, dir_fd=fd),
                )
                if above is not None:
                    os.close(above)
            assert fd is not None
            return fd
        except OSError:
            if fd is not None:
                os.close(fd)
            raise

    def _tree(self, top: str) -> Iterator[_File]:
        """The files below a directory."""
        device: int | None = None
        pending = [top]
        while pending and not self.stopping():
            path = pending.pop()
            directory = self._enter(path, device is None)
            if directory is None:
                continue
            try:
                if device is None or self.one_file_system or self.follow:
                    st = os.fstat(directory)
                    if device is None:
                        device = st.st_dev
                    if not self._wanted(st, device):
                        continue
                yield from self._list(
                    directory, path if path.endswith("/") else path + "/", pending
                )
            except OSError as exc:
                if not self.share[0]:
                    self.on_error(path, "read", exc)
            finally:
                os.close(directory)

    def _enter(self, path: str, first: bool) -> int | None:
        """A descriptor of a directory; None when it cannot be opened.

        first: whether it is the argument, whose absence is an error, and which may be a symbolic
        link.
        """
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NONBLOCK
        if not (self.follow or first):
            flags |= os.O_NOFOLLOW
        try:
            return self._open_directory(path, flags)
        except OSError as exc:
            gone = exc.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
            if (first or not gone) and not self.share[0]:
                self.on_error(path, "open", exc)
        return None

    def _wanted(self, st: os.stat_result, device: int) -> bool:
        """Whether to read a directory.  device: of the argument."""
        if self.one_file_system and st.st_dev != device:
            return False
        if self.follow:
            if (st.st_dev, st.st_ino) in self._directories:
                return False
            self._directories.add((st.st_dev, st.st_ino))
        return True

    def _list(self, directory: int, prefix: str, pending: list[str]) -> Iterator[_File]:
        """The files in a directory; the directories in it are added to `pending`."""
        follow, excluded, unwanted, seen = self.follow, self.excluded, self._unwanted, self._seen
        smallest, largest = self._smallest, self._largest
        number, parts = self.share
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
        if not follow:
            flags |= os.O_NOFOLLOW
        os_open, fstat, close, is_regular = os.open, os.fstat, os.close, stat.S_ISREG
        directories: list[str] = []
        with os.scandir(directory) as entries:
            for entry in _by_name(entries) if self._ordered else entries:
                name = entry.name
                try:
                    if not entry.is_file(follow_symlinks=follow):
                        if entry.is_dir(follow_symlinks=follow) and not (
                            excluded and excluded(name, prefix + name)
                        ):
                            directories.append(prefix + name)
                        continue
                    if parts > 1 and (entry.inode() * _HASH >> 16) % parts != number:
                        continue
                    if unwanted and unwanted(name, prefix + name):
                        continue
                    try:
                        fd = os_open(name, flags | self._noatime, dir_fd=directory)
                    except PermissionError:
                        fd = self._open(name, flags, directory)
                except OSError as exc:
                    self._failed(prefix + name, exc)
                    continue
                try:
                    st = fstat(fd)
                    if not is_regular(st.st_mode):
                        continue
                    if not smallest <= st.st_size <= largest:
                        self._left_out(st.st_size)
                        continue
                    if st.st_nlink > 1 or follow:
                        key = st.st_dev, st.st_ino
                        if key in seen:
                            continue
                        seen.add(key)
                    yield prefix, name, fd, st, st.st_size, False
                finally:
                    close(fd)
                if self.stopping():
                    return
        pending.extend(reversed(directories))

    def _left_out(self, size: int) -> None:
        if size > self._largest:
            self.too_large += 1
        else:
            self.too_small += 1

    def _failed(self, path: str, exc: OSError) -> None:
        if exc.errno == errno.ENOENT:
            self.vanished += 1
        else:
            self.on_error(path, "open", exc)


def _by_name(entries: Iterable[os.DirEntry[str]]) -> Iterator[os.DirEntry[str]]:
    """The entries of a directory, by name; of a very large one, in sorted parts."""
    from itertools import islice
    from operator import attrgetter

    entries, name = iter(entries), attrgetter("name")
    while part := sorted(islice(entries, _SORTED), key=name):
        yield from part


def _matcher(patterns: Sequence[str]) -> _Match | None:
    """A function of (name, path) that is true where a shell pattern matches; None for no patterns.

    As vmtouch, fnmatch(3) of the name; of the path for a pattern with a slash.
    """
    if not patterns:
        return None
    import fnmatch
    import re

    def compiled(chosen: list[str]) -> Callable[[str], object]:
        return re.compile("|".join(map(fnmatch.translate, chosen)) or r"(?!)").match

    of_name = compiled([pattern for pattern in patterns if "/" not in pattern])
    of_path = compiled([pattern for pattern in patterns if "/" in pattern])
    return lambda name, path: of_name(name) or of_path(path)


def _unwanted(excluded: _Match | None, included: _Match | None) -> _Match | None:
    """A function of (name, path) that is true for a file to leave out; None for no such file."""
    if included is None:
        return excluded
    if excluded is None:
        return lambda name, path: not included(name, path)
    return lambda name, path: excluded(name, path) or not included(name, path)
