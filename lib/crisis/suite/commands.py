# SPDX-License-Identifier: GPL-2.0-or-later
"""The commands of the suite in a directory, and the BPF programs that they declare."""

from __future__ import annotations

import os
import sys

from ..errors import Error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..bpf import Source

__all__ = ["find", "names", "programs"]


def _is_command(path: str) -> bool:
    """Whether a file is a command of the suite.

    pip installs into a directory with other programs.
    """
    if not os.path.isfile(path):
        return False
    with open(path, "rb") as f:
        return b"\nfrom crisis" in f.read(16384)


def names(here: str) -> list[str]:
    """The names of the commands in the directory `here`, in order."""
    return sorted(name for name in os.listdir(here) if _is_command(os.path.join(here, name)))


def find(name: str, here: str) -> str:
    """The name in the directory `here` of a command that may be given by its installed one.

    Raises Error.
    """
    beside = os.path.dirname(os.path.abspath(sys.argv[0]))
    for directory in here, beside, os.path.join(beside, "../sbin"), os.path.join(beside, "../bin"):
        path = os.path.realpath(os.path.join(directory, name))
        if "/" not in name and os.path.dirname(path) == here and _is_command(path):
            return os.path.basename(path)
    raise Error(f"no such command: {name}")


def programs(wanted: Iterable[str], here: str) -> dict[str, dict[str, Source]]:
    """{command: its SOURCES} of commands in the directory `here`; {} for one without BPF."""
    from importlib.machinery import SourceFileLoader
    from importlib.util import module_from_spec, spec_from_loader

    found: dict[str, dict[str, Source]] = {}
    sys.dont_write_bytecode = True
    for name in wanted:
        path = os.path.join(here, name)
        with open(path, "rb") as f:
            if b"SOURCES" not in f.read():  # half of them: to compile these takes 0.1 s
                found[name] = {}
                continue
        loader = SourceFileLoader("crisis_tool_" + name.replace("-", "_"), path)
        spec = spec_from_loader(loader.name, loader)
        assert spec is not None
        module = module_from_spec(spec)
        loader.exec_module(module)
        found[name] = dict(getattr(module, "SOURCES", {}))
    return found
