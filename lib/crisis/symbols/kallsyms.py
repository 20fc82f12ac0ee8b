# SPDX-License-Identifier: GPL-2.0-or-later
"""Functions of the running kernel and its modules, from /proc/kallsyms.

Follows s_show() in kernel/kallsyms.c: the core's symbols are in order of their addresses, those of
modules, which have a fourth field, come behind them in any order.
"""

from __future__ import annotations

import os
from bisect import bisect_left, bisect_right

from ..errors import NotPermitted, Unavailable
from ..kernel.sysfs import text
from .frame import KERNEL, Frame, call_site, moved

TYPE_CHECKING = False  # mypy takes it for true
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["Kallsyms", "check"]

_BLOCK = 1 << 16  # bytes read at a time
_CODE = b"tTwW"  # types of symbols: text, weak


def check(root: str = "/") -> None:
    """Raise Unavailable or NotPermitted where kernel functions have no name.

    kallsyms_show_value(), kernel/ksyms_common.c, decides who sees the addresses.
    """
    try:
        with open(os.path.join(root, "proc/kallsyms"), "rb") as f:
            rows = f.read(_BLOCK).split(b"\n")
    except OSError as exc:
        raise Unavailable(
            f"cannot read /proc/kallsyms: {exc.strerror}. Boot a kernel with CONFIG_KALLSYMS=y"
        ) from None
    # Per-CPU symbols, which come first on x86, begin at address 0.
    if not any(row[:16].strip(b"0") for row in rows):
        level = text(root, "proc/sys/kernel/kptr_restrict")
        if level == "2":
            raise Unavailable(
                "kernel.kptr_restrict is 2: addresses are hidden. Try: sysctl "
                "kernel.kptr_restrict=1"
            )
        raise NotPermitted(
            f"addresses are hidden with kernel.kptr_restrict at {level or 'unknown'}. "
            "Run as root, or with CAP_SYSLOG"
        )


class Kallsyms:
    """Names the addresses of the kernel; keeps what it has found.

    root: "/" or a fixture tree.  Where the file cannot be read, or kptr_restrict hides the
    addresses, frames have no name.
    """

    def __init__(self, root: str = "/") -> None:
        self._path = os.path.join(root, "proc/kallsyms")
        self._known: dict[int, Frame] = {}

    def learn(self, addresses: Iterable[int]) -> None:
        """Look up many addresses in one pass; `frames` does it for those not yet known."""
        wanted = sorted({address for address in addresses if address not in self._known})
        if wanted:
            for address, row in zip(wanted, self._rows(wanted)):
                self._known[address] = _frame(address, row)

    def frames(self, addresses: Sequence[int], first_is_return: bool = False) -> list[Frame]:
        """The Frames of a kernel stack.

        addresses: innermost first, as a stack map gives them.
        first_is_return: the innermost is a return address too (from a probe's return).
        """
        looked = [call_site(a, i or first_is_return) for i, a in enumerate(addresses)]
        self.learn(looked)
        return [moved(self._known[at], address) for at, address in zip(looked, addresses)]

    def _rows(self, wanted: list[int]) -> list[bytes]:
        """The line of the function at or below each address, b"" for none.  wanted: sorted."""
        keys = [b"%016x" % address for address in wanted]
        best, modules = [b""] * len(keys), []
        before = rest = b""
        try:
            with open(self._path, "rb") as f:
                while True:
                    block = rest + f.read(_BLOCK)
                    if block == rest:
                        break
                    block, _, rest = block.rpartition(b"\n")
                    rows = block.split(b"\n")
                    if b"\t" in rows[-1]:  # the core's symbols, which are in order, have ended
                        modules += rows
                    elif block:
                        # Few blocks have a key between the last line of the one before and their
                        # own.
                        first = bisect_left(keys, before[:16] or rows[0][:16])
                        if first < len(keys) and keys[first] <= rows[-1][:16]:
                            _nearest(rows, before, keys, first, best)
                        before = next((row for row in reversed(rows) if _is_code(row)), before)
        except OSError:
            pass
        modules.append(before)
        modules.sort()
        _nearest(modules, b"", keys, 0, best)
        return best


def _is_code(row: bytes) -> bool:
    return row[17:18] in _CODE


def _nearest(
    rows: list[bytes], before: bytes, keys: list[bytes], first: int, best: list[bytes]
) -> None:
    """Put into `best`, for the keys from the first on, the last function row at or below each, if
    that is nearer.

    rows: sorted lines of /proc/kallsyms; before: the function row in front of them, or b"".
    """
    for i in range(first, len(keys)):
        at = bisect_right(rows, keys[i] + b"~") - 1
        while at >= 0 and not _is_code(rows[at]):
            at -= 1
        row = rows[at] if at >= 0 else before
        if row[:16] > best[i][:16]:
            best[i] = row


def _frame(address: int, row: bytes) -> Frame:
    """The Frame of an address, by the line of its function."""
    start = int(row[:16] or b"0", 16)
    if not start:  # all are 0 where kptr_restrict hides them
        return Frame(address, module=KERNEL)
    name, _, module = row[19:].decode("utf-8", "surrogateescape").partition("\t")
    return Frame(address, name, address - start, module.partition("\t")[0].strip(" []") or KERNEL)
