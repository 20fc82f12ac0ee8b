# SPDX-License-Identifier: GPL-2.0-or-later
"""What a program needs of the running kernel, looked up in the kernel's BTF."""

from __future__ import annotations

import functools
import os

from ..errors import Error
from . import btf as types

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["btf_id", "by_btf", "kernel_headers", "unusable", "vmlinux"]

# Which BTF type a program of the kind is attached by.
_BTF_KINDS = {
    "tp_btf": ("btf_trace_%s", types.TYPEDEF),
    "fentry": ("%s", types.FUNC),
    "fexit": ("%s", types.FUNC),
    "iter": ("bpf_iter_%s", types.FUNC),
}


@functools.cache
def vmlinux() -> types.Btf | None:
    """The running kernel's Btf, or None when it has none.  Raises Error without /sys."""
    try:
        with open(types.VMLINUX, "rb") as f:
            return types.Btf(f.read())
    except FileNotFoundError:
        if not os.path.exists("/sys/kernel"):
            raise Error(
                "cannot compile the BPF program: /sys is not mounted. "
                "Mount it: mount -t sysfs sysfs /sys"
            ) from None
        return None
    except (OSError, ValueError):
        return None


def kernel_headers() -> str | None:
    """Where the kernel's headers are, None where they are not installed."""
    build = f"/lib/modules/{os.uname().release}/build"
    if os.path.isdir(build):
        return build
    archive = "/sys/kernel/kheaders.tar.xz"
    return archive if os.path.exists(archive) else None


def btf_id(place: str, btf: types.Btf) -> int | None:
    """The BTF id of what a program of a "kind/target" is attached to; None where it has none.

    Raises KeyError for a kind that is not attached by BTF.
    """
    kind, _, target = place.partition("/")
    form, btf_kind = _BTF_KINDS[kind]
    return btf.find(form % target, btf_kind)


def by_btf(place: str) -> bool:
    """Whether programs of the kind of "kind/target" are attached by a BTF id."""
    return place.partition("/")[0] in _BTF_KINDS


def unusable(request: dict[str, Any], btf: types.Btf | None) -> str | None:
    """Why the running kernel cannot have the requested program, or None.  btf: its Btf, or None."""
    if btf is None:
        if request["requires"] or request["arguments"] or request["kfuncs"]:
            return (
                f"this kernel has no BTF in {types.VMLINUX}, which the program needs. "
                "Boot a kernel with CONFIG_DEBUG_INFO_BTF=y"
            )
        return None
    for need in request["requires"]:
        any_of = [need] if isinstance(need, str) else need
        if not any(map(btf.has, any_of)):
            return f"this kernel has no {' or '.join(any_of)}"
    for name in request["kfuncs"]:
        if not name.endswith("?") and btf.find(name, types.FUNC) is None:
            return f"this kernel has no {name}"
    for argument in request["arguments"]:
        if not argument.endswith("?") and btf.argument(*argument.split(".")) is None:
            return f"this kernel's BTF has no tracepoint argument {argument}"
    return None
