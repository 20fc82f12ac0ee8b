# SPDX-License-Identifier: GPL-2.0-or-later
"""Room for descriptors, in a process of its own for each limit."""

import os
import subprocess
import sys

import pytest

from helpers import ROOT

CODE = """
import os, resource, sys
sys.path.insert(0, sys.argv[1])
from crisis.errors import Error
from crisis.kernel import rlimit
soft, hard, wanted = map(int, sys.argv[2:5])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
if os.geteuid() == 0:  # without CAP_SYS_RESOURCE
    os.setgroups([])
    os.setresuid(65534, 65534, 65534)
try:
    rlimit.raise_open_files(wanted, "counters")
except Error as exc:
    sys.exit(f"{exc}")
print(*resource.getrlimit(resource.RLIMIT_NOFILE))
fds = [os.open("/dev/null", os.O_RDONLY) for _ in range(wanted)]
"""


def raised(soft, hard, wanted):
    return subprocess.run(
        [sys.executable, "-c", CODE, os.path.join(ROOT, "lib"), str(soft), str(hard), str(wanted)],
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("soft, hard, wanted", [(400, 600, 300), (64, 600, 300), (64, 600, 500)])
def test_the_limit_is_raised_as_far_as_needed(soft, hard, wanted):
    result = raised(soft, hard, wanted)
    assert result.returncode == 0, result.stderr
    found, still = map(int, result.stdout.split())
    assert still == hard and (found == soft if soft >= wanted + 50 else wanted < found < hard)


def test_a_limit_that_cannot_be_raised():
    result = raised(64, 128, 300)
    assert result.returncode == 1
    assert result.stderr.startswith(
        "cannot open 300 counters: the limit of open files is 128. Raise it with ulimit -Hn 3"
    )


MOST = """
import os, resource, sys
sys.path.insert(0, sys.argv[1])
from crisis.kernel import rlimit
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 300))
if sys.argv[2] == "drop" and os.geteuid() == 0:
    os.setgroups([])
    os.setresuid(65534, 65534, 65534)
print(rlimit.most_open_files(), *resource.getrlimit(resource.RLIMIT_NOFILE))
"""


def most(who):
    words = [sys.executable, "-c", MOST, os.path.join(ROOT, "lib"), who]
    return subprocess.check_output(words, text=True).strip()


def test_without_the_capability_the_limit_becomes_the_hard_one():
    assert most("drop") == "300 300 300"


def test_with_the_capability_the_limit_becomes_that_of_the_system():
    with open("/proc/self/status") as f:
        capabilities = int(f.read().partition("CapEff:\t")[2].split()[0], 16)
    if not capabilities >> 24 & 1:
        pytest.skip("without CAP_SYS_RESOURCE")
    with open("/proc/sys/fs/nr_open") as f:
        highest = int(f.read())
    assert most("keep") == f"{highest} {highest} {highest}"
