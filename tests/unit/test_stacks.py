# SPDX-License-Identifier: GPL-2.0-or-later
"""Symbols of fixture trees, of files built here, and of this process."""

import ctypes
import os
import shutil
import subprocess
import sys

import pytest
from crisis import stacks
from crisis.stacks import Frame

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
    frames = kernel(tmp_path).kernel([0xffffffff81000013, 0xffffffff81000020, 0xffffffffc0001004, 0xffffffffc0002009])
    assert [stacks.line(f) for f in frames] == ["first+0x3 [kernel]", "first+0x10 [kernel]",     # a return address
                                                "earlier+0x4 [mod]", "later+0x9 [mod]"]


def test_hidden_kernel_addresses_name_nothing(tmp_path):
    rows = "".join("0000000000000000" + row[16:] + "\n" for row in KALLSYMS.splitlines())
    frame = kernel(tmp_path, rows).kernel([0xffffffff81000013])[0]
    assert (frame.name, frame.offset, stacks.line(frame)) == (None, None, "[unknown] [kernel]")


def test_kernel_symbols_in_many_blocks(tmp_path):
    """More than one block of reading, each address in turn, against a plain search."""
    rows = [(0xffffffff81000000 + 32 * i, "function_%d" % i) for i in range(9000)]
    symbols = kernel(tmp_path, "".join("%016x T %s\n" % row for row in rows))
    wanted = [at + 8 for at, _ in rows[::7]]
    symbols.learn_kernel(wanted)
    assert [symbols.kernel([a])[0].name for a in wanted] == [name for _, name in rows[::7]]


def test_folded_is_one_line():
    frames = [Frame(3, "in;ner\n"), Frame(2, "\x1b[31m"), Frame(1, None, module="/bin/x y"), Frame(0)]
    assert stacks.folded(frames) == r"[unknown];[x y];\x1b[31m;in:ner\x0a"
    assert stacks.folded(frames[:1], "a;b") == r"a:b;in:ner\x0a"


def test_this_process():
    libc = ctypes.CDLL(None)
    address = ctypes.cast(libc.qsort, ctypes.c_void_p).value
    frame = stacks.Symbols().user(os.getpid(), [address + 3])[0]
    assert (frame.name, frame.offset) == ("qsort", 3) and frame.module.startswith("/") and len(frame.build_id) >= 16
    assert stacks.Symbols().user(os.getpid(), [16])[0].module is None


def test_a_process_that_is_gone():
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    child.wait()
    symbols = stacks.Symbols()
    assert stacks.line(symbols.user(child.pid, [0x1234])[0]) == "[unknown]"
    with pytest.raises(OSError):
        symbols.hold(child.pid)


def test_not_elf():
    for data in b"", b"\x7fELF", b"\x7fELF" + bytes(60), b"#!/bin/sh\n" * 9, b"\x7fELF\x02\x01\x01" + b"\xff" * 90:
        try:
            elf = stacks.Elf(lambda length, offset, data=data: data[offset:offset + length])
        except (ValueError, OverflowError):
            continue
        assert elf.defined([b"malloc"]) == {}


def test_demangle():
    if stacks.demangle("_Z3foov") == "_Z3foov":
        pytest.skip("no C++ runtime is installed")
    assert stacks.demangle("_ZNSt6vectorIiSaIiEE9push_backERKi") == \
        "std::vector<int, std::allocator<int> >::push_back(int const&)"
    assert stacks.demangle("_ZN3foo3bar17h0123456789abcdefE") == "foo::bar"
    for name in "main", "_Zbroken", "_Z" + "S" * 5000, "_Z\xff":
        assert stacks.demangle(name) == name


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
            pytest.skip("%s is not installed" % program)
    directory = tmp_path_factory.mktemp("stacks")
    (directory / "a.cc").write_text(PROGRAM)
    subprocess.check_call(["g++", "-g", "-O1", "-Wl,--build-id", "-o", str(directory / "full"),
                           str(directory / "a.cc")])
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
    elf = stacks.Elf(lambda n, at: open(str(built / "full"), "rb").read()[at:at + n])
    rows = [row.split() for row in subprocess.check_output(["nm", str(built / "full")], text=True).splitlines()]
    names = {row[2]: int(row[0], 16) for row in rows if len(row) == 3 and row[1] == "T" and not row[2].startswith("_")}
    found = elf.defined([name.encode() for name in names] + [b"no_such", b"hown"])
    assert found == {name.encode(): address for name, address in names.items()} and b"main" in found
    notes = subprocess.check_output(["file", "-b", str(built / "full")], text=True) if shutil.which("file") else ""
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
    subprocess.check_call(["objcopy", "--strip-all", "--add-section", ".gnu_debugdata=%s.xz" % small,
                           str(built / "full"), small])
    assert named(small) == ["hidden()", "shown()", "space::inner(int)"]


def test_map_file_of_a_jit():
    path = "/tmp/perf-%d.map" % os.getpid()
    import mmap
    area = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    address = ctypes.addressof(ctypes.c_char.from_buffer(area))
    with open(path, "w") as f:
        f.write("%x 40 compiled method\nbad line\n" % address)
    try:
        frame = stacks.Symbols().user(os.getpid(), [address + 0x10])[0]
        assert (frame.name, frame.offset) == ("compiled method", 0x10)
    finally:
        os.unlink(path)


def test_mount_namespace(built):
    if os.geteuid():
        pytest.skip("needs root to make a mount namespace")
    if not shutil.which("unshare") or subprocess.call(["unshare", "-m", "true"]):
        pytest.skip("unshare -m does not work here")
    hidden = built / "elsewhere"
    hidden.mkdir()
    child = subprocess.Popen(["unshare", "-m", "sh", "-c", "mount -t tmpfs t %s && cp %s %s/p && exec %s/p"
                              % (hidden, built / "full", hidden, hidden)],
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        addresses = [int(x, 16) for x in child.stdout.readline().split()]
        frame = stacks.Symbols().user(child.pid, addresses[:1])[0]
        # To a reader in a chroot, d_path() names a file of another mount namespace from the root of that namespace.
        shown = {line.split(None, 5)[5].rstrip() for line in open("/proc/%d/maps" % child.pid) if "elsewhere/p" in line}
        assert frame.name == "hidden()" and {frame.module} == shown and not os.path.exists(frame.module)
        assert frame.module.endswith("%s/p" % hidden)
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
        assert stacks.line(frames[0]) == "middle (inlined) [inl]"
    finally:
        child.kill()
        child.communicate()
