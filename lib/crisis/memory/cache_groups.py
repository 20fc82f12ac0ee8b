# SPDX-License-Identifier: GPL-2.0-or-later
"""What cachestat --by groups pages by: files, processes, cgroups, file systems.

A key of the map `groups` has two numbers, a and b, whose meaning depends on the grouping; see
progs/cachestat.bpf.c.
"""

from __future__ import annotations

from ..errors import Unavailable
from ..table import decode
from .file_names import File, Mounts, device

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    # (key, value) of the map
    _Groups = list[tuple[Any, Any]]
    # Of each group: the cells of its row, the members of its JSON record.
    _Labels = list[tuple[list[Any], dict[str, Any]]]

__all__ = ["GROUPINGS", "Grouping"]


class Grouping:
    """What the groups are of.

    columns: of the table, after those of the counts, as for table.text.
    controllers: of the cgroup v1 hierarchy whose cgroups are meant; None for those of v2.
    """

    columns: tuple[tuple[str, str], ...] = ()
    controllers: set[str] | None = None

    def labels(self, groups: _Groups, named: Iterable[Any]) -> _Labels:
        """What the groups are called.  named: the records of struct name_record of the interval."""
        raise NotImplementedError


class _ByFile(Grouping):
    columns = (("FILE", "%-s"),)

    def __init__(self) -> None:
        self._mounts = Mounts()

    def labels(self, groups: _Groups, named: Iterable[Any]) -> _Labels:
        files = {(record.inode, record.ino): File.named(record) for record in named}
        self._mounts.refresh()
        return [self._label(files, key, group) for key, group in groups]

    def _label(
        self, files: dict[tuple[int, int], File], key: Any, group: Any
    ) -> tuple[list[Any], dict[str, Any]]:
        file = files.get((key.a, key.b)) or File(key.b, group.dev, group.mode, None)
        path, dev = self._mounts.path(file), device(group.dev)
        return [path or f"[{dev}] inode {key.b}"], {"file": path, "dev": dev, "inode": key.b}


class _ByProcess(Grouping):
    columns = (("PID", "%d"), ("COMM", "%-s"))

    def labels(self, groups: _Groups, named: Iterable[Any]) -> _Labels:
        rows = [(key.a, decode(group.comm)) for key, group in groups]
        return [([pid, comm], {"pid": pid, "comm": comm}) for pid, comm in rows]


class _ByCgroup(Grouping):
    columns = (("CGROUP", "%-s"),)

    def __init__(self) -> None:
        from ..kernel import cgroup

        found = cgroup.controller_mount("memory")
        if found is None:
            raise Unavailable("cannot group by cgroup: no cgroup file system is mounted")
        self._point, self.controllers = found

    def labels(self, groups: _Groups, named: Iterable[Any]) -> _Labels:
        from ..kernel import cgroup

        paths = cgroup.paths([key.a for key, _ in groups], self._point)
        names = [paths.get(key.a, f"id {key.a}, removed") for key, _ in groups]
        return [([name], {"cgroup": name}) for name in names]


class _ByFileSystem(Grouping):
    columns = (("DEV", "%s"), ("TYPE", "%-s"), ("MOUNT", "%-s"))

    def __init__(self) -> None:
        self._mounts = Mounts()

    def labels(self, groups: _Groups, named: Iterable[Any]) -> _Labels:
        self._mounts.refresh()
        return [self._label(key) for key, _ in groups]

    def _label(self, key: Any) -> tuple[list[Any], dict[str, Any]]:
        dev = device(key.a)
        kind: str | None = "block"
        point: str | None
        if key.b:  # a block device, not what is mounted from it
            point = self._mounts.block_device(key.a)
        else:
            kind, point = self._mounts.filesystem(key.a)
        return [dev, kind, point], {"mount": point, "dev": dev, "type": kind}


GROUPINGS: dict[str, type[Grouping]] = {
    "file": _ByFile,
    "process": _ByProcess,
    "cgroup": _ByCgroup,
    "fs": _ByFileSystem,
}
