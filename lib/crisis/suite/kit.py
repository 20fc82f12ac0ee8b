# SPDX-License-Identifier: GPL-2.0-or-later
"""The other tools that belong on a machine before an incident.

The list is that of B. Gregg, Systems Performance, 2nd edition, table 4.1 (Linux crisis tools), with
tcpdump and cpuid, which the author added in 2024.
"""

from __future__ import annotations

import os

from .answer import NO, WORKS, Answer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["PACKAGES", "Package", "family", "find", "look"]

_BCC_TOOLS = "/usr/share/bcc/tools"  # outside of PATH, where Fedora has them
_SBIN = ("/usr/local/sbin", "/usr/sbin", "/sbin")  # missing in the PATH of many users


class Package:
    """A package by its name in Debian, and the commands that it is for.

    fedora: its name in Fedora.  ubuntu: in Ubuntu.
    """

    def __init__(self, name: str, commands: str, fedora: str = "", ubuntu: str = "") -> None:
        self.name, self.commands = name, commands.split()
        self._names = {"fedora": fedora, "ubuntu": ubuntu}

    def name_in(self, family: str) -> str:
        """The name in a family of distributions, as family() has it."""
        return self._names.get(family) or self.name


PACKAGES = (
    Package("procps", "ps vmstat uptime top", "procps-ng"),
    Package("util-linux", "dmesg lsblk lscpu"),
    Package("sysstat", "iostat mpstat pidstat sar"),
    Package("iproute2", "ip ss nstat tc", "iproute"),
    Package("numactl", "numastat"),
    Package("tcpdump", "tcpdump"),
    Package("linux-perf", "perf", "perf", "linux-tools-generic"),
    Package("linux-cpupower", "turbostat", "kernel-tools", "linux-tools-generic"),
    Package("bpfcc-tools", "execsnoop opensnoop biolatency tcplife trace", "bcc-tools"),
    Package("bpftrace", "bpftrace"),
    Package("trace-cmd", "trace-cmd"),
    Package("nicstat", "nicstat"),
    Package("ethtool", "ethtool"),
    Package("tiptop", "tiptop"),
    Package("cpuid", "cpuid"),
    Package("msr-tools", "rdmsr wrmsr"),
)
_FAMILIES = ("ubuntu", "debian", "fedora", "opensuse", "suse", "arch")
_FEDORAS = {"rhel": "fedora", "centos": "fedora"}
_INSTALL = {
    "opensuse": "zypper install",
    "fedora": "dnf install",
    "suse": "zypper install",
    "arch": "pacman -S",
}


def family(root: str = "/") -> str:
    """The family of this distribution: "debian", "ubuntu", "fedora", another's ID, or ""."""
    fields: dict[str, str] = {}
    for path in "etc/os-release", "usr/lib/os-release":
        try:
            with open(os.path.join(root, path), encoding="utf-8", errors="replace") as f:
                fields = dict(line.strip().split("=", 1) for line in f if "=" in line)
            break
        except OSError:
            continue
    ids = " ".join(fields.get(key, "").strip('"') for key in ("ID", "ID_LIKE")).split()
    ids = [_FEDORAS.get(name, name) for name in ids]
    for known in _FAMILIES:
        if any(name.startswith(known) for name in ids):
            return known
    return ids[0] if ids else ""


def look(
    environment: Mapping[str, str], ours: str = "", root: str = "/"
) -> list[tuple[str, Answer, dict[str, str | None]]]:
    """[(package, Answer, {command: its path or None})] of PACKAGES.

    environment: with PATH.  ours: a directory whose commands do not count: the suite's own.
    """
    where = family(root)
    install = _INSTALL.get(where, "apt install")
    path = [entry for entry in environment.get("PATH", "").split(":") if entry.startswith("/")]
    directories = [*dict.fromkeys([*path, *_SBIN])]
    found = []
    for package in PACKAGES:
        places = {name: find(name, directories, ours, root) for name in package.commands}
        missing = [name for name, place in places.items() if place is None]
        name = package.name_in(where)
        answer = Answer(WORKS, " ".join(package.commands))
        if missing:
            what = "none of its commands" if len(missing) == len(places) > 1 else "no"
            names = " ".join(missing) if what == "no" else f"({' '.join(missing)})"
            answer = Answer(NO, f"{what} {names} in PATH. Try: {install} {name}")
        found.append((name, answer, places))
    return found


def find(name: str, directories: list[str], ours: str, root: str) -> str | None:
    """The path of a command, also by the names that Debian and Fedora give those of bcc."""
    candidates = [os.path.join(directory, name) for directory in directories]
    candidates += [os.path.join(directory, name + "-bpfcc") for directory in directories]
    candidates.append(os.path.join(_BCC_TOOLS, name))
    for path in candidates:
        at = os.path.join(root, path[1:])
        own = ours and os.path.realpath(at) == os.path.join(ours, name)
        if not own and os.path.isfile(at) and os.access(at, os.X_OK):
            return path
    return None
