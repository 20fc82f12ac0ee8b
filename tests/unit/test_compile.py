# SPDX-License-Identifier: GPL-2.0-or-later
"""The text of a program, from its files."""

import os
import shutil
import subprocess

import pytest

from crisis import bpf
from crisis.bpf import cache, source
from helpers import ROOT, load


@pytest.fixture()
def files(tmp_path):
    (tmp_path / "main.bpf.c").write_text(
        '#include "a.bpf.h"\nint x;\n#include "b.bpf.h"\n#include <linux/sched.h>\nint __LINE__y;\n'
    )
    (tmp_path / "a.bpf.h").write_text('/* a */\n#include "b.bpf.h"\nint a;\n')
    (tmp_path / "b.bpf.h").write_text("int b;")
    return str(tmp_path)


def test_included_files_are_in_the_text_once(files):
    assert source.program_text("main.bpf.c", files) == (
        '#line 1 "main.bpf.c"\n#line 1 "a.bpf.h"\n/* a */\n#line 1 "b.bpf.h"\nint b;\n#line 3 '
        '"a.bpf.h"\nint a;\n\n'
        '#line 2 "main.bpf.c"\nint x;\n#line 4 "main.bpf.c"\n#include <linux/sched.h>\nint '
        "__LINE__y;\n"
    )


def test_the_compiler_names_file_and_line(files, tmp_path):
    if not shutil.which("cc"):
        pytest.skip("no C compiler")
    (tmp_path / "b.bpf.h").write_text("int b;\nnonsense in_b;\n")
    (tmp_path / "main.bpf.c").write_text('#include "a.bpf.h"\nint x;\n\nnonsense in_main;\n')
    result = subprocess.run(
        ["cc", "-fsyntax-only", "-x", "c", "-"],
        input=source.program_text("main.bpf.c", files),
        stderr=subprocess.PIPE,
        text=True,
    )
    assert "b.bpf.h:2:1: error" in result.stderr and "main.bpf.c:4:1: error" in result.stderr


def test_missing_file(files, tmp_path):
    os.unlink(str(tmp_path / "b.bpf.h"))
    with pytest.raises(FileNotFoundError):
        source.program_text("main.bpf.c", files)


def test_key_covers_what_a_file_includes(monkeypatch, tmp_path):
    programs = str(tmp_path / "progs")
    shutil.copytree(source.PROGRAMS, programs)
    wanted = load("runqlat").SOURCES["hash"]
    before = cache.key(wanted)
    monkeypatch.setattr(source, "PROGRAMS", programs)
    assert cache.key(wanted) == before
    for name in "task.bpf.h", "runqlat.bpf.c":
        with open(os.path.join(programs, name), "a") as f:
            f.write("/* changed */\n")
        now = cache.key(wanted)
        assert now != before and now.startswith("runqlat.hash-")
        before = now


def test_text_in_place_of_a_file():
    own = bpf.Source("test.own", text='#include "hist.bpf.h"\nint f(void *ctx) { return 0; }\n')
    assert own.text.startswith('#line 1 "test.own"\n#line 1 "hist.bpf.h"\n')
    assert own.text.endswith('#line 2 "test.own"\nint f(void *ctx) { return 0; }\n')


def test_enumeration():
    assert bpf.enumeration("KIND", ("global", "memcg")) == {"KIND_GLOBAL": 0, "KIND_MEMCG": 1}


def test_every_file_is_installed(tmp_path):
    subprocess.check_call(
        ["make", "-s", "-C", ROOT, "install", f"DESTDIR={tmp_path}", "PREFIX=/usr"]
    )
    installed = os.listdir(str(tmp_path / "usr/share/crisis-tools/lib/crisis/progs"))
    assert sorted(installed) == sorted(
        name for name in os.listdir(source.PROGRAMS) if name != "lint.h"
    )
