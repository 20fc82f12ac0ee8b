# SPDX-License-Identifier: GPL-2.0-or-later
"""A file that some process has mapped, and its functions."""

from __future__ import annotations

from . import debug_file
from .elf import Elf, Functions

__all__ = ["Module"]


class Module:
    """A mapped file; its functions are read when the first address in it is looked up.

    fd: a descriptor of it, or None when it could not be opened, for which code is the errno or 0;
    path: as the process has it; pid: the process that is charged for it; why: why it has no
    symbols, or None; elf: once it has been read.
    """

    __slots__ = ("fd", "path", "pid", "why", "code", "elf", "_functions")

    def __init__(
        self, fd: int | None, path: str, pid: int, why: str | None = None, code: int | None = 0
    ) -> None:
        self.fd, self.path, self.pid, self.why, self.code = fd, path, pid, why, code
        self.elf: Elf | None = None
        self._functions: Functions | None = None

    def load(self, uid: int | None = None) -> None:
        """Read the symbol tables.  uid: the process's, or None.

        Raises ValueError, OSError, MemoryError.
        """
        assert self.fd is not None
        self.elf = elf = Elf(self.fd)
        elves = [elf]
        if not elf.has_symtab():
            other = debug_file.separate(elf, self.path, self.pid, uid) or debug_file.embedded(elf)
            if other is not None:
                elves.insert(0, other)
        self._functions = Functions(*elves)

    def load_image(self, image: bytes) -> None:
        """Take the symbol tables from a copy of the file.  Raises ValueError."""
        self.elf = Elf(image)
        self._functions = Functions(self.elf)

    def size(self) -> int:
        """The number of functions."""
        return 0 if self._functions is None else len(self._functions)

    def build_id(self) -> str | None:
        """The build ID in hexadecimal, or None."""
        return None if self.elf is None else self.elf.build_id

    def find(self, file_offset: int) -> tuple[str, int] | None:
        """(name, offset) of a loaded file's function, or None."""
        if not self._functions or self.elf is None:
            return None
        address = self.elf.address(file_offset)
        return None if address is None else self._functions.find(address)
