# SPDX-License-Identifier: GPL-2.0-or-later
"""Names for what the events of drsnoop and oomkill have as numbers.

Each is looked up when it is first needed, since most cost more than the start of a command.
"""

from __future__ import annotations

from .. import cli
from ..errors import Unavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..symbols.kallsyms import Kallsyms

__all__ = ["EventNames"]


class EventNames:
    """Names of flags, cgroups and addresses."""

    def __init__(
        self, constants: Mapping[str, int], tracepoint: tuple[str, str], cgroups: str | None = None
    ) -> None:
        """constants: {name: value} of the kernel's ___GFP_* constants.

        tracepoint: (category, name) of one that prints gfp flags; cgroups: where the cgroups'
        hierarchy is mounted.
        """
        self._constants, self._tracepoint, self._point = constants, tracepoint, cgroups
        self._gfp: list[tuple[int, str]] | None = None
        self._cgroups: dict[int, str | None] = {}
        self._kallsyms: Kallsyms | None = None

    def gfp(self, flags: int | None) -> str | None:
        """The names of gfp flags; None for None."""
        if flags is None:
            return None
        from . import gfp

        if self._gfp is None:
            from ..perf import tracefs

            try:
                shown = tracefs.tracepoint_fields(*self._tracepoint)[1]
            except (OSError, Unavailable) as exc:
                reason = getattr(exc, "strerror", None) or exc
                cli.verbose(f"names of gfp flags only from BTF: {reason}")
                shown = ""
            self._gfp = gfp.table(shown, self._constants)
        return gfp.names(flags, self._gfp)

    def cgroup(self, number: int) -> str | None:
        """The path of a cgroup in the hierarchy; None for one that is gone, and for 0."""
        if not number or self._point is None:
            return None
        if number not in self._cgroups:
            from ..kernel import cgroup

            self._cgroups[number] = cgroup.paths([number], self._point).get(number)
        return self._cgroups[number]

    def stack(self, addresses: list[int]) -> list[str]:
        """Lines of the form symbol+0x1d, without the frames of the tracing itself."""
        if not addresses:
            return []
        from ..symbols import frame
        from ..symbols.kallsyms import Kallsyms

        if self._kallsyms is None:
            self._kallsyms = Kallsyms()
        frames = frame.without_tracing(self._kallsyms.frames(addresses))
        return [frame.line(one) for one in frames]
