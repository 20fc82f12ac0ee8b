# SPDX-License-Identifier: GPL-2.0-or-later
"""Addresses to names, of programs built here and of this process."""

import ctypes
import mmap
import os
import shutil
import subprocess
import sys

import pytest

from crisis.symbols.decode import Symbols
from crisis.symbols.elf import Elf
from crisis.symbols.frame import line as frame_line


def test_this_process():
    libc = ctypes.CDLL(None)
    address = ctypes.cast(libc.qsort, ctypes.c_void_p).value
    frame = Symbols().user(os.getpid(), [address + 3])[0]
    assert (
        (frame.name, frame.offset) == ("qsort", 3)
        and frame.module.startswith("/")
        and len(frame.build_id) >= 16
    )
    assert Symbols().user(os.getpid(), [16])[0].module is None


def test_a_process_that_is_gone():
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    child.wait()
    symbols = Symbols()
    assert frame_line(symbols.user(child.pid, [0x1234])[0]) == "[unknown]"
    with pytest.raises(OSError):
        symbols.hold(child.pid)


PROGRAM = r"""
#include <stdio.h>
#include <stdlib.h>
static __attribute__((noinline)) void hidden(void) { asm volatile("nop"); }
void shown(void) { asm volatile("nop"); }
namespace space { void inner(int) { asm volatile("nop"); } }
int main()
{
	printf("%p %p %p\n", (void *)hidden, (void *)shown, (void *)space::inner);
	fflush(0);
	getchar();
}
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
        symbols = Symbols()
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
    elf = Elf((built / "full").read_bytes())
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
    area = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    address = ctypes.addressof(ctypes.c_char.from_buffer(area))
    with open(path, "w") as f:
        f.write(f"{address:x} 40 compiled method\nbad line\n")
    try:
        frame = Symbols().user(os.getpid(), [address + 0x10])[0]
        assert (frame.name, frame.offset) == ("compiled method", 0x10)
    finally:
        os.unlink(path)


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
        assert Symbols().user(child.pid, [address])[0].name == ("hidden()" if found else None)
    finally:
        child.kill()
        child.communicate()


def test_a_device_that_is_mapped_is_not_opened(tmp_path):
    fd = os.open("/dev/zero", os.O_RDWR)
    try:
        area = mmap.mmap(
            fd, 4096, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
        )
    finally:
        os.close(fd)
    address = ctypes.addressof(ctypes.c_char.from_buffer(area))
    symbols = Symbols()
    assert symbols.user(os.getpid(), [address + 8])[0].module == "/dev/zero"
    (module,) = [m for _, m in symbols.modules(os.getpid()) if m.path == "/dev/zero"]
    assert module.fd is None and module.why == "it is not a regular file"


def test_the_files_of_a_process_have_a_budget(built):
    notes = []
    symbols = Symbols(note=notes.append)
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
        frame = Symbols().user(child.pid, addresses[:1])[0]
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
static inline __attribute__((always_inline)) void *deepest(void)
{
	return __builtin_return_address(0);
}
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
        symbols = Symbols()
        frames = symbols.user(child.pid, [address + 1])
        assert [f.name for f in frames] == ["outer"]
        frames = symbols.inlined([frames])[0]
        assert [(f.name, f.inlined) for f in frames] == [("middle", True), ("outer", False)]
        assert frame_line(frames[0]) == "middle (inlined) [inl]"
    finally:
        child.kill()
        child.communicate()
