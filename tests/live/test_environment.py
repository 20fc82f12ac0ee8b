# SPDX-License-Identifier: GPL-2.0-or-later
"""Commands where something of the system is missing: file systems that are not mounted,
descriptors, PSI.
"""

import os
import resource
import subprocess

import pytest

from helpers import SLOW, run, tool

NEEDS_PROC = [
    ["delays"],
    ["delays", "-p", "1", ".1", "1"],
    ["psi", ".1", "1"],
    ["runqlat", ".1", "1"],
    ["runqlat", "-p", "1", ".1", "1"],
    ["cachestat", ".1", "1"],
    ["irqtime", ".1", "1"],
    ["drsnoop", "-d", ".1"],
    ["cachesnoop", "-d", ".1"],
    ["memleak", ".1", "1"],
    ["memleak", "-p", "1", ".1", "1"],
    ["fincore", "-p", "1"],
    ["wss", "1", ".1", "1"],
    ["psi", "-c", "/x", ".1", "1"],
]
NEEDS_SYS = [
    ["runqlat", ".1", "1"],
    ["cachestat", ".1", "1"],
    ["irqtime", ".1", "1"],
    ["drsnoop", "-d", ".1"],
    ["cachesnoop", "-d", ".1"],
    ["oomkill", "-d", ".1"],
    ["memleak", ".1", "1"],
    ["memleak", "-p", "1", ".1", "1"],
    ["pmcarch", ".1", "1"],
    ["tiptop", ".1", "1"],
    ["psi", "-c", "/x", ".1", "1"],
]


def hidden(script, command):
    """A command in a mount namespace of its own, after a shell script."""
    result = subprocess.run(
        [
            "unshare",
            "-m",
            "sh",
            "-c",
            script + ' && exec "$@"',
            "sh",
            tool(command[0]),
            *command[1:],
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60 * SLOW,
    )
    if "unshare failed" in result.stderr:
        pytest.skip(result.stderr.strip())
    return result


@pytest.mark.parametrize("command", NEEDS_PROC, ids=" ".join)
def test_without_proc(command):
    result = hidden("mount -t tmpfs none /proc", command)
    assert result.returncode == 69 and result.stdout == ""
    assert result.stderr == f"{command[0]}: /proc is not mounted. Try: mount -t proc proc /proc\n"


@pytest.mark.parametrize("command", NEEDS_SYS, ids=" ".join)
def test_without_sys(command):
    result = hidden("mount -t tmpfs none /sys", command)
    assert result.returncode == 69 and result.stdout == ""
    assert result.stderr == f"{command[0]}: /sys is not mounted. Try: mount -t sysfs sysfs /sys\n"


def test_what_needs_neither_runs_without():
    for name, arguments in (
        ("nicstat", [".1", "1"]),
        ("fincore", ["/etc/passwd"]),
        ("psi", [".1", "1"]),
    ):
        assert hidden("mount -t tmpfs none /sys", [name, *arguments]).returncode == 0
    missing = hidden("mount -t tmpfs none /proc", ["runqlat", "x"])
    assert missing.returncode == 2 and "'x' is not a positive number" in missing.stderr


@pytest.mark.parametrize(
    "config, words",
    [
        (
            "CONFIG_PSI=y",
            [
                "psi: there is no /proc/pressure: pressure stall information is switched off. "
                "Boot with psi=1\n"
            ],
        ),
        (
            "# CONFIG_PSI is not set",
            ["psi: there is no /proc/pressure: the kernel was built without CONFIG_PSI\n"],
        ),
        (
            None,
            [
                "psi: there is no /proc/pressure: the kernel was built without CONFIG_PSI, or "
                "pressure stall information is "
                "switched off. Boot with psi=1\n"
            ],
        ),
    ],
)
def test_psi_without_pressure_files(config, words, tmp_path):
    """As where PSI is built in and off (CONFIG_PSI_DEFAULT_DISABLED), as in RHEL 8 and 9."""
    if not os.path.isdir("/proc/pressure"):
        pytest.skip("this kernel has no /proc/pressure")
    script = (
        f"mkdir {tmp_path}/empty && mount --bind {tmp_path}/empty /proc/pressure && mount -t "
        "tmpfs none /boot"
    )
    if os.path.exists("/proc/config.gz"):
        script += " && mount --bind /dev/null /proc/config.gz"
    if config:
        script += f" && echo '{config}' >/boot/config-{os.uname().release}"
    result = hidden(script, ["psi", ".1", "1"])
    assert result.returncode == 69 and [result.stderr] == words


# to read the limit, Python may need a descriptor
@pytest.mark.parametrize(
    "limit, command, numbered",
    [(20, ["memleak", "-p", "self", ".1", "1"], True), (5, ["fincore", "-p", "self"], False)],
)
def test_the_limit_of_open_files_is_named(limit, command, numbered):
    words = [str(os.getpid()) if word == "self" else word for word in command[1:]]
    result = run(
        command[0],
        *words,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit)),
    )
    assert result.returncode == 1 and result.stderr.count("\n") == 1
    assert (
        result.stderr.startswith(command[0] + ": cannot open ")
        and ". Raise it with ulimit -" in result.stderr
    )
    assert not numbered or f" {limit}" in result.stderr.partition("limit")[2]
