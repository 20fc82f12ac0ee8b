# SPDX-License-Identifier: GPL-2.0-or-later
"""How programs are compiled: what the object may depend on, and what the compiler may be told by others.  Needs root."""

import os
import shutil
import subprocess
import sys
import tempfile

import helpers
import pytest

ROOT = helpers.ROOT

# The digests of three programs that read kernel and user memory.
DIGESTS = r"""
import hashlib, sys
sys.dont_write_bytecode = True
sys.path[:0] = sys.argv[1] + "/lib", sys.argv[1] + "/tests"
import helpers
from crisis import compile
for command, variant in ("memleak", "perf"), ("runqlat", "raw"), ("cachesnoop", "raw"):
    print(hashlib.sha256(compile._compile(helpers.load(command).SOURCES[variant], "auto")).hexdigest())
"""


@pytest.fixture(scope="module")
def checkout():
    """A copy of the checkout that every user can read."""
    directory = tempfile.mkdtemp(prefix="crisis-checkout-")
    os.chmod(directory, 0o755)
    for name in "bin", "lib", "tests/helpers.py":
        copy = shutil.copytree if os.path.isdir(os.path.join(ROOT, name)) else shutil.copy
        os.makedirs(os.path.dirname(os.path.join(directory, name)), exist_ok=True)
        copy(os.path.join(ROOT, name), os.path.join(directory, name))
    subprocess.check_call(["chmod", "-R", "a+rX", directory])
    yield directory
    shutil.rmtree(directory)


def digests(checkout, *wrap):
    return subprocess.check_output([*wrap, sys.executable, "-I", "-c", DIGESTS, checkout], text=True, cwd="/").split()


def test_the_object_does_not_depend_on_kptr_restrict_or_the_user(checkout, tmp_path):
    """bcc chooses the helpers that read memory by the addresses in /proc/kallsyms, and looks there only as root."""
    hidden = str(tmp_path / "kallsyms")
    with open("/proc/kallsyms") as symbols, open(hidden, "w") as out:
        out.writelines("0" * len(line.split()[0]) + line[len(line.split()[0]):] for line in symbols)
    expected = digests(checkout)
    assert len(set(expected)) == 3
    assert digests(checkout, "unshare", "-m", "sh", "-c", 'mount --make-rprivate / 2>/dev/null || mount --make-rprivate '
                   '/proc; mount --bind "$0" /proc/kallsyms && exec "$@"', hidden) == expected
    assert digests(checkout, "setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--inh-caps",
                   "+bpf,+perfmon", "--ambient-caps", "+bpf,+perfmon") == expected
