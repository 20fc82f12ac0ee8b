# SPDX-License-Identifier: GPL-2.0-or-later
"""Symbols of fixture trees, of files built here, and of this process."""

import ctypes
import os
import shutil
import subprocess
import sys

import pytest

from crisis.symbols import stacks
from crisis.symbols.frame import Frame, folded
from crisis.symbols.frame import line as frame_line
from crisis.symbols.perfmap import PerfMap
from helpers import ROOT, SLOW

KALLSYMS = """\
ffffffff81000000 T _stext
ffffffff81000010 t first
ffffffff81000020 T second
ffffffff81000020 A not_code
ffffffff82000000 D data
ffffffffc0002000 t later\t[mod]
ffffffffc0001000 t earlier\t[mod]
"""


def kernel(tmp_path, text=KALLSYMS):
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/kallsyms").write_text(text)
    return stacks.Symbols(str(tmp_path))


def test_kernel_symbols(tmp_path):
    frames = kernel(tmp_path).kernel(
        [0xFFFFFFFF81000013, 0xFFFFFFFF81000020, 0xFFFFFFFFC0001004, 0xFFFFFFFFC0002009]
    )
    assert [frame_line(f) for f in frames] == [
        "first+0x3 [kernel]",
        "first+0x10 [kernel]",  # a return address
        "earlier+0x4 [mod]",
        "later+0x9 [mod]",
    ]


def test_hidden_kernel_addresses_name_nothing(tmp_path):
    rows = "".join("0000000000000000" + row[16:] + "\n" for row in KALLSYMS.splitlines())
    frame = kernel(tmp_path, rows).kernel([0xFFFFFFFF81000013])[0]
    assert (frame.name, frame.offset, frame_line(frame)) == (None, None, "[unknown] [kernel]")


def test_kernel_symbols_in_many_blocks(tmp_path):
    """More than one block of reading, each address in turn, against a plain search."""
    rows = [(0xFFFFFFFF81000000 + 32 * i, f"function_{i}") for i in range(9000)]
    symbols = kernel(tmp_path, "".join("%016x T %s\n" % row for row in rows))
    wanted = [at + 8 for at, _ in rows[::7]]
    symbols.learn_kernel(wanted)
    assert [symbols.kernel([a])[0].name for a in wanted] == [name for _, name in rows[::7]]


def test_folded_is_one_line():
    frames = [
        Frame(3, "in;ner\n"),
        Frame(2, "\x1b[31m"),
        Frame(1, None, module="/bin/x y"),
        Frame(0),
    ]
    assert folded(frames) == r"[unknown];[x y];\x1b[31m;in:ner\x0a"
    assert folded(frames[:1], "a;b") == r"a:b;in:ner\x0a"


def test_this_process():
    libc = ctypes.CDLL(None)
    address = ctypes.cast(libc.qsort, ctypes.c_void_p).value
    frame = stacks.Symbols().user(os.getpid(), [address + 3])[0]
    assert (
        (frame.name, frame.offset) == ("qsort", 3)
        and frame.module.startswith("/")
        and len(frame.build_id) >= 16
    )
    assert stacks.Symbols().user(os.getpid(), [16])[0].module is None


def test_a_process_that_is_gone():
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    child.wait()
    symbols = stacks.Symbols()
    assert frame_line(symbols.user(child.pid, [0x1234])[0]) == "[unknown]"
    with pytest.raises(OSError):
        symbols.hold(child.pid)


PROGRAM = r"""
#include <stdio.h>
#include <stdlib.h>
static __attribute__((noinline)) void hidden(void) { asm volatile("nop"); }
void shown(void) { asm volatile("nop"); }
namespace space { void inner(int) { asm volatile("nop"); } }
int main() { printf("%p %p %p\n", (void *)hidden, (void *)shown, (void *)space::inner); fflush(0); getchar(); }
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    for program in "g++", "strip", "objcopy", "nm":
        if not shutil.which(program):
            pytest.skip(f"{program} is not installed")
    directory = tmp_path_factory.mktemp("stacks")
    (directory / "a.cc").write_text(PROGRAM)
    subprocess.check_call(
        [
            "g++",
            "-g",
            "-O1",
            "-Wl,--build-id",
            "-o",
            str(directory / "full"),
            str(directory / "a.cc"),
        ]
    )
    return directory


def named(path, gone=False):
    """The names at the addresses that the program prints of three of its functions."""
    child = subprocess.Popen([str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        addresses = [int(x, 16) for x in child.stdout.readline().split()]
        symbols = stacks.Symbols()
        if gone:
            os.unlink(str(path))
        symbols.hold(child.pid)
        if gone:
            child.communicate(b"\n")
        return [symbols.user(child.pid, [a])[0].name for a in addresses]
    finally:
        child.kill()
        child.communicate()


def test_every_function_of_a_program(built):
    assert named(built / "full") == ["hidden()", "shown()", "space::inner(int)"]
    elf = stacks.Elf((built / "full").read_bytes())
    rows = [
        row.split()
        for row in subprocess.check_output(["nm", str(built / "full")], text=True).splitlines()
    ]
    names = {
        row[2]: int(row[0], 16)
        for row in rows
        if len(row) == 3 and row[1] == "T" and not row[2].startswith("_")
    }
    found = elf.defined([name.encode() for name in names] + [b"no_such", b"hown"])
    assert found == {name.encode(): address for name, address in names.items()} and b"main" in found
    notes = (
        subprocess.check_output(["file", "-b", str(built / "full")], text=True)
        if shutil.which("file")
        else ""
    )
    assert elf.build_id and (not notes or elf.build_id in notes)


def test_a_deleted_file_of_a_process_that_ended(built):
    if os.geteuid() or not os.access("/proc/self/map_files", os.X_OK):
        pytest.skip("a deleted file can be opened only by root")
    shutil.copy(str(built / "full"), str(built / "gone"))
    assert named(built / "gone", gone=True) == ["hidden()", "shown()", "space::inner(int)"]


def test_separate_debug_file_by_link(built):
    stripped, debug = str(built / "stripped"), str(built / "stripped.debug")
    subprocess.check_call(["objcopy", "--only-keep-debug", str(built / "full"), debug])
    subprocess.check_call(["objcopy", "--strip-all", str(built / "full"), stripped])
    assert named(stripped) == [None] * 3
    subprocess.check_call(["objcopy", "--add-gnu-debuglink=" + debug, stripped])
    assert named(stripped) == ["hidden()", "shown()", "space::inner(int)"]
    # One of another build is not believed.
    subprocess.check_call(["g++", "-g", "-O0", "-Wl,--build-id", "-o", debug, str(built / "a.cc")])
    assert named(stripped) == [None] * 3


def test_mini_debug_info(built):
    lzma = pytest.importorskip("lzma")
    small = str(built / "mini")
    subprocess.check_call(["objcopy", "--only-keep-debug", str(built / "full"), small + ".symbols"])
    (built / "mini.xz").write_bytes(lzma.compress((built / "mini.symbols").read_bytes()))
    subprocess.check_call(
        [
            "objcopy",
            "--strip-all",
            "--add-section",
            f".gnu_debugdata={small}.xz",
            str(built / "full"),
            small,
        ]
    )
    assert named(small) == ["hidden()", "shown()", "space::inner(int)"]


def test_map_file_of_a_jit():
    path = f"/tmp/perf-{os.getpid()}.map"
    import mmap

    area = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    address = ctypes.addressof(ctypes.c_char.from_buffer(area))
    with open(path, "w") as f:
        f.write(f"{address:x} 40 compiled method\nbad line\n")
    try:
        frame = stacks.Symbols().user(os.getpid(), [address + 0x10])[0]
        assert (frame.name, frame.offset) == ("compiled method", 0x10)
    finally:
        os.unlink(path)


def perf_map(tmp_path, text, uid=None, pid=7):
    """The PerfMap of a fixture's process 7, whose PID in its own namespace is 3."""
    process = tmp_path / "proc" / str(pid)
    (process / "root/tmp").mkdir(parents=True)
    (process / "status").write_text(
        "Name:\tx\nUid:\t0\t%d\t0\t0\nNSpid:\t7\t3\n" % (os.geteuid() if uid is None else uid)
    )
    if text is not None:
        (process / "root/tmp/perf-3.map").write_bytes(text)
    return PerfMap(str(process))


def test_perf_map_lines(tmp_path):
    found = perf_map(
        tmp_path,
        b"2000 10 second\n1000 20 first of two\nbad\nxyz 10 no\n-5 1 n\n1000 20 replaced\n"
        b"ffffffffffffffff 1 last\n3000 zz bad size\n4000 10\n5000 10 \xff\x1b\n6000 10 cut",
    )
    assert [
        found.find(at)
        for at in (0xFFF, 0x1000, 0x101F, 0x1020, 0x2008, (1 << 64) - 1, 0x3000, 0x4001)
    ] == [None, ("replaced", 0), ("replaced", 31), None, ("second", 8), ("last", 0), None, None]
    assert (
        found.find(0x5000) == ("\udcff\x1b", 0) and found.find(0x6000) is None and found.cut is None
    )


@pytest.mark.parametrize("kind", ["fifo", "device", "link", "directory", "none", "owner"])
def test_perf_map_that_is_not_the_processs_own_file(tmp_path, kind):
    if kind == "owner":
        assert perf_map(tmp_path, b"0 ffff x\n", os.geteuid() + 1).find(1) is None
        return
    perf_map(tmp_path, None)
    path = tmp_path / "proc/7/root/tmp/perf-3.map"
    if kind == "fifo":
        os.mkfifo(str(path))
    elif kind == "link":
        (tmp_path / "real").write_bytes(b"0 ffff x\n")
        path.symlink_to(tmp_path / "real")
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "directory":
        path.mkdir()
    assert PerfMap(str(tmp_path / "proc/7")).find(1) is None


def test_a_perf_map_without_a_line_break(tmp_path):
    found = perf_map(
        tmp_path,
        b"1000 10 "
        + b"a" * (1 << 19)
        + b"\n4000 10 "
        + b"x" * (5 << 20)
        + b"\n2000 10 b\n3000 10 c",
    )
    assert (
        found.find(0x4000) is None
        and found.find(0x1000) == ("a" * (4096 - 8), 0)
        and found.find(0x2001) == ("b", 1)
    )


COST = """
import resource, sys, time
sys.path.insert(0, %r)
from crisis.symbols.perfmap import PerfMap
before, begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
found = PerfMap(sys.argv[1])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, time.monotonic() - begin,
      found.find(0x7f0000000000), found.find(0x7f0000000000 + 64 * 499999 + 63), found.cut)
"""


@pytest.mark.parametrize("line", ["%x 40 function_%040d", "1 1 a"])
def test_a_large_perf_map(tmp_path, line):
    """32 MB of lines: all are used when they are of the usual length, and cost less than the file
    in any case.
    """
    text = "".join(
        (line + "\n") % ((0x7F0000000000 + 64 * i, i) if "%" in line else ()) for i in range(500000)
    )
    perf_map(tmp_path, (text * (1 if "%" in line else 11)).encode())
    size, seconds, rest = subprocess.run(
        [sys.executable, "-c", COST % os.path.join(ROOT, "lib"), str(tmp_path / "proc/7")],
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    ).stdout.split(" ", 2)
    assert int(size) < 64 << 10 and float(seconds) < 2 * SLOW
    if "%" in line:
        assert rest == "%s %s None\n" % ((f"function_{0:040d}", 0), (f"function_{499999:040d}", 63))
    else:
        assert "only its first 524288 lines" in rest


def test_mappings_that_are_gone():
    def row(start, end):
        return start, end, True, 0, ("0:0", 1), "/x"

    old, new = (
        [row(0, 10), row(10, 20), row(30, 40), row(50, 60)],
        [row(5, 10), row(20, 31), row(60, 70)],
    )
    assert stacks._apart(old, new) == [row(10, 20), row(50, 60)] and stacks._apart(old, []) == old
    import time

    begin = time.monotonic()
    assert (
        len(
            stacks._apart(
                [row(4 * i, 4 * i + 1) for i in range(60000)],
                [row(4 * i + 2, 4 * i + 3) for i in range(60000)],
            )
        )
        == 60000
    )
    assert time.monotonic() - begin < 1 * SLOW


@pytest.mark.parametrize(
    "mode, owner, found", [(0o644, 0, True), (0o600, 0, False), (0o600, 1234, True)]
)
def test_who_owns_a_debug_file(built, mode, owner, found):
    """One that not everybody may read is used only for its owner's processes."""
    if os.geteuid():
        pytest.skip("needs root to give files away")
    directory = built / (f"owner{mode:o}{owner}")
    directory.mkdir()
    for path in [built] + list(built.parents)[:-2]:
        os.chmod(str(path), 0o755)
    program, debug = str(directory / "program"), str(directory / "program.debug")
    subprocess.check_call(["objcopy", "--only-keep-debug", str(built / "full"), debug])
    subprocess.check_call(["objcopy", "--strip-all", str(built / "full"), program])
    subprocess.check_call(["objcopy", "--add-gnu-debuglink=" + debug, program])
    os.chmod(debug, mode)
    os.chown(debug, owner, owner)
    child = subprocess.Popen(
        ["setpriv", "--reuid", "1234", "--regid", "1234", "--clear-groups", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        address = int(child.stdout.readline().split()[0], 16)
        assert stacks.Symbols().user(child.pid, [address])[0].name == (
            "hidden()" if found else None
        )
    finally:
        child.kill()
        child.communicate()


def test_a_device_that_is_mapped_is_not_opened(tmp_path):
    import mmap

    fd = os.open("/dev/zero", os.O_RDWR)
    try:
        area = mmap.mmap(
            fd, 4096, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
        )
    finally:
        os.close(fd)
    address = ctypes.addressof(ctypes.c_char.from_buffer(area))
    symbols = stacks.Symbols()
    assert symbols.user(os.getpid(), [address + 8])[0].module == "/dev/zero"
    (module,) = [m for _, m in symbols.modules(os.getpid()) if m.path == "/dev/zero"]
    assert module.fd is None and module.why == "it is not a regular file"


def test_the_files_of_a_process_have_a_budget(built):
    notes = []
    symbols = stacks.Symbols(note=notes.append)
    symbols.SECONDS = -1
    libc = ctypes.CDLL(None)
    frame = symbols.user(os.getpid(), [ctypes.cast(libc.qsort, ctypes.c_void_p).value])[0]
    assert frame.name is None and frame.module.startswith("/")
    assert len(notes) == 1 and "take too much time or memory" in notes[0]


def test_mount_namespace(built):
    if os.geteuid():
        pytest.skip("needs root to make a mount namespace")
    if not shutil.which("unshare") or subprocess.call(["unshare", "-m", "true"]):
        pytest.skip("unshare -m does not work here")
    hidden = built / "elsewhere"
    hidden.mkdir()
    child = subprocess.Popen(
        [
            "unshare",
            "-m",
            "sh",
            "-c",
            f"mount -t tmpfs t {hidden} && cp {built / 'full'} {hidden}/p && exec {hidden}/p",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        addresses = [int(x, 16) for x in child.stdout.readline().split()]
        frame = stacks.Symbols().user(child.pid, addresses[:1])[0]
        # To a reader in a chroot, d_path() names a file of another mount namespace from the root of
        # that namespace.
        shown = {
            line.split(None, 5)[5].rstrip()
            for line in open(f"/proc/{child.pid}/maps")
            if "elsewhere/p" in line
        }
        assert (
            frame.name == "hidden()"
            and {frame.module} == shown
            and not os.path.exists(frame.module)
        )
        assert frame.module.endswith(f"{hidden}/p")
    finally:
        child.kill()
        child.communicate()


INLINED = r"""
#include <stdio.h>
static inline __attribute__((always_inline)) void *deepest(void) { return __builtin_return_address(0); }
static inline __attribute__((always_inline)) void middle(void)
{
here:   printf("%p\n", &&here); fflush(0); getchar(); deepest();
}
__attribute__((noinline)) void outer(void) { middle(); }
int main(void) { outer(); return 0; }
"""


def test_inlined_functions(built):
    if not shutil.which("addr2line"):
        pytest.skip("addr2line is not installed")
    (built / "inl.c").write_text(INLINED)
    subprocess.check_call(["gcc", "-g", "-O1", "-o", str(built / "inl"), str(built / "inl.c")])
    child = subprocess.Popen([str(built / "inl")], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        address = int(child.stdout.readline(), 16)
        symbols = stacks.Symbols()
        frames = symbols.user(child.pid, [address + 1])
        assert [f.name for f in frames] == ["outer"]
        frames = symbols.inlined([frames])[0]
        assert [(f.name, f.inlined) for f in frames] == [("middle", True), ("outer", False)]
        assert frame_line(frames[0]) == "middle (inlined) [inl]"
    finally:
        child.kill()
        child.communicate()
