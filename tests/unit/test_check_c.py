# SPDX-License-Identifier: GPL-2.0-or-later
"""tests/tools/check_c: what it finds, and that the programs have none of it."""

import os
import shutil

import pytest

from crisis import bpf
from crisis.bpf import btf as types
from helpers import load

check_c = load("../tests/tools/check_c")

GOOD = """#include "crisis.bpf.h"
#include <linux/sched.h>
BPF_HASH(seen, u32, u64, 16);
int on_switch(u64 *ctx)
{
	struct task_struct *p = (struct task_struct *)ctx[1];
	u32 tid = PROBE(p, pid);
	u64 one = MORE;

	if (tid == PARAM(tid))
		seen.update(&tid, &one);
	return 0;
}
"""


@pytest.fixture()
def check(tmp_path):
    if not shutil.which("clang"):
        pytest.skip("clang is not installed")
    if not os.path.exists(types.VMLINUX):
        pytest.skip("this kernel has no BTF")
    with open(types.VMLINUX, "rb") as f:
        btf = types.Btf(f.read())

    def run(old="", new="", **options):
        path = tmp_path / "test.bpf.c"
        path.write_text(GOOD.replace(old, new, 1))
        options.setdefault("defines", {"MORE": 1})
        return check_c.check(bpf.Source("test.check", str(path), params=("tid",), **options), btf)

    return run


def test_correct_program(check):
    assert check() == ("", None)


@pytest.mark.parametrize(
    "old, new, message",
    [
        (
            "pid);",
            "no_such_member);",
            "error: no member named 'no_such_member' in 'struct task_struct'",
        ),
        ("u32 tid =", "int tid =", "warning: passing 'int *' to parameter of type"),
        ("PARAM(tid)", "PARAM(other)", "error: use of undeclared identifier 'PARAM_other'"),
        (
            "BPF_HASH(seen",
            "BPF_HASH(unused, u32, u64, 1);\nBPF_HASH(seen",
            "warning: unused variable 'unused'",
        ),
        ("tid == PARAM(tid)", "tid || one && ctx", "warning: '&&' within '||'"),
    ],
)
def test_faults(check, old, new, message):
    messages, reason = check(old, new)
    assert message in messages and "test.bpf.c:" in messages and reason is None


def test_a_macro_of_the_variant_is_missing(check):
    assert "'MORE'" in check(defines={})[0]


def test_not_for_this_kernel(check):
    assert check(requires=("no_such_struct.member",)) == (
        "",
        "this kernel has no no_such_struct.member",
    )


def test_the_programs(capsys):
    """The same as make lint, so that a package build that runs the unit tests finds it too."""
    if not shutil.which("clang") or not os.path.exists(types.VMLINUX):
        pytest.skip("needs clang and the kernel's BTF")
    assert check_c.main([]) == 0, capsys.readouterr().out
