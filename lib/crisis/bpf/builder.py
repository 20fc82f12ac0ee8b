# SPDX-License-Identifier: GPL-2.0-or-later
"""The child of compiler.Compiler: requests as JSON on stdin, objects on stdout.

Each text is compiled in a fork that ends with it, and with the 150 MB that clang has taken.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import re
import signal
import struct
import sys
import traceback

sys.path.insert(1, os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__)))))
from crisis.bpf import btf as types
from crisis.bpf import compiler, header, record, requirements
from crisis.bpf.object import pack
from crisis.child import die_with_parent
from crisis.errors import Error, Unavailable
from crisis.kernel import syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any, NoReturn

    Request = dict[str, Any]

_LD_IMM64, _PSEUDO_MAP_FD = 0x18, 1
_PARAM_MAGIC = 0x43525354
_CALL, _PSEUDO_KFUNC_CALL = 0x85, 2
_KFUNC_MAGIC = 0x7E000000  # no helper has such a number
_TASK_STORAGE = 29
# What of a request its text depends on: macros(), and the types that it is compiled with.
_OF_TEXT = "text", "headers", "has", "defines", "arguments", "params", "counters", "kfuncs"
_CLONE_NEWNS, _MS_BIND, _MS_REC_PRIVATE = 0x20000, 0x1000, 0x4000 | 0x40000


def main() -> None:
    """Compile the requests, some at a time, and answer each.

    Those that make the same text are compiled once.
    """
    jobs, seconds, requests = json.load(sys.stdin)
    _load()
    waiting = groups(requests)
    running: dict[int, tuple[dict[int, int], int]] = {}  # PID -> answer()'s results and errors
    while waiting or running:
        while waiting and len(running) < jobs:
            group = waiting.pop(0)
            results = {number: os.memfd_create("object") for number in group}
            errors = os.memfd_create("errors")
            pid = _fork([requests[number] for number in group], results, errors, seconds)
            running[pid] = results, errors
        pid, status = os.wait()
        results, errors = running.pop(pid)
        if status and len(results) > 1:  # each alone, for an answer of its own
            waiting += [[number] for number in results]
        else:
            answer(os.waitstatus_to_exitcode(status), results, errors)
        for fd in *results.values(), errors:
            os.close(fd)


def groups(requests: list[Request]) -> list[list[int]]:
    """The numbers of the requests, those together that make the same text."""
    found: dict[str, list[int]] = {}
    for number, request in enumerate(requests):
        found.setdefault(json.dumps([request[name] for name in _OF_TEXT]), []).append(number)
    return list(found.values())


def _fork(requests: list[Request], results: dict[int, int], errors: int, seconds: float) -> int:
    """The PID of a fork that compiles requests, with files for the objects and the errors."""
    parent = os.getpid()
    pid = os.fork()
    if not pid:
        die_with_parent(signal.SIGKILL)
        if os.getppid() != parent:  # it has ended before
            os._exit(1)
        signal.setitimer(signal.ITIMER_REAL, seconds)
        # Compiler._close() awaits the end of this pipe, after which the lock of _directory() must
        # have gone.  The kernel releases the files of a process that ends in the reverse of their
        # order (task_work_run()): the lowest descriptor is the last.
        os.dup2(1, 0)
        # bcc and clang write where they like; an object must be alone in its file.
        os.dup2(errors, 1)
        os.dup2(errors, 2)
        end(lambda: compile_all(requests, list(results.values())))
    return pid


def compile_all(requests: list[Request], results: list[int]) -> int:
    """Compile requests that make the same text; the exit status."""
    try:
        for result, (meta, code) in zip(results, build(requests)):
            with os.fdopen(result, "wb", closefd=False) as out:
                out.write(pack(meta, code))
    except Error as exc:
        print(exc, file=sys.stderr)
        return getattr(exc, "code", exc.status)
    return 0


def answer(status: int, results: dict[int, int], errors: int) -> None:
    """Write what came of each request, for compiler.Compiler.

    A line with its number, its exit status, the lengths of the object and the errors; then these.
    results: {number: file of the object}.
    """
    for number, result in results.items():
        parts = [os.pread(fd, os.fstat(fd).st_size, 0) for fd in (result, errors)]
        head = f"{number} {status} {len(parts[0])} {len(parts[1])}\n"
        sys.stdout.buffer.write(head.encode() + b"".join(parts))
    sys.stdout.buffer.flush()


def end(work: Callable[[], int]) -> NoReturn:
    """End with the status of `work`, without the teardown of LLVM, which takes longer than that."""
    status = 1
    try:
        status = work()
    except BaseException:
        traceback.print_exc()
    sys.stderr.flush()
    os._exit(status)


def _load() -> None:
    """Load what all requests need before any fork; what fails here is reported by each of them."""
    try:
        btf = requirements.vmlinux()
        if btf is not None:
            btf.constants([""])  # its indexes are made when they are needed first
        import bcc  # noqa: F401
    except (Error, ImportError):
        pass


def build(requests: list[Request]) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Yield (metadata, instructions) of each requested object; all make the same text.

    Raises Error.
    """
    compiled: dict[str, Any] = {}
    code = b""
    for request in requests:
        btf = None if request["headers"] == "kernel" else requirements.vmlinux()
        meta = _described(request, btf)
        if meta["unusable"]:
            yield meta, b""
            continue
        if not compiled:
            text = macros(request, btf) + request["text"]
            with _HeaderTree(text, btf, request["headers"]):
                compiled, code = _compile(request, text, btf)
        yield {**meta, **compiled}, code


def _described(request: Request, btf: types.Btf | None) -> dict[str, Any]:
    """The metadata of a requested object, before it is compiled.  btf: the kernel's, or None."""
    meta = {
        "name": request["name"],
        "unusable": requirements.unusable(request, btf),
        "compiler": "",
        "points": request["points"],
        "probes": request["probes"],
        "maps": [],
        "layouts": {},
        "functions": [],
        "ids": {},
        "constants": {},
        "counters": request["counters"],
    }
    if btf is not None and not meta["unusable"]:
        meta["constants"] = btf.constants(request["constants"])
        for candidate in (c for point in request["points"] for c in point):
            place = candidate.partition(":")[0]
            if requirements.by_btf(place):
                meta["ids"][place] = requirements.btf_id(place, btf)
    return meta


def macros(request: Request, btf: types.Btf | None) -> str:
    """The definitions before a request's text: those of its variant, and what the kernel has."""
    lines = []
    for macro, (member, release) in request["has"].items():
        there = btf.has(member) if btf is not None else _release() >= _release(release)
        if there:
            lines.append(f"#define {macro} 1")
    lines += [f"#define {name} {value}" for name, value in request["defines"].items()]
    for name in (argument.rstrip("?") for argument in request["arguments"]):
        assert btf is not None, name  # requirements.unusable() has seen to it
        position = btf.argument(*name.split("."))
        if position is not None:
            lines.append(f"#define ARG_{name.replace('.', '_')} {position}")
    lines += [f"#define PARAM_{name} {i}" for i, name in enumerate(request["params"])]
    lines += [f"#define COUNTER_{name} {i}" for i, name in enumerate(request["counters"])]
    lines += [
        f"#define KFUNC_{name.rstrip('?')} {_KFUNC_MAGIC + i}"
        for i, name in enumerate(request["kfuncs"])
        if btf is not None and btf.find(name.rstrip("?"), types.FUNC) is not None
    ]
    if request["counters"]:
        lines.append(f"#define COUNTERS {len(request['counters'])}")
    return "".join(line + "\n" for line in lines)


def _release(text: str = "") -> tuple[int, ...]:
    return tuple(int(n) for n in (re.findall(r"\d+", text or os.uname().release) + ["0"])[:2])


class _HeaderTree:
    """A directory with the types for bcc, removed at the end; kernel headers alone without BTF."""

    def __init__(self, text: str, btf: types.Btf | None, choice: str) -> None:
        self.text, self.btf, self.choice, self.root = text, btf, choice, ""

    def __enter__(self) -> None:
        if self.btf is None:
            if self.choice == "btf" or not requirements.kernel_headers():
                raise Unavailable(
                    f"cannot compile the BPF program: this kernel has no BTF in {types.VMLINUX} "
                    "and no kernel headers are installed. Boot a kernel with "
                    "CONFIG_DEBUG_INFO_BTF=y, or install the headers package of "
                    f"{os.uname().release}"
                )
            return
        try:  # ends with this process, whatever ends that
            tree = f"/proc/self/fd/{syscalls.detached_mount('tmpfs')}"
        except OSError:
            tree = self.root = _directory()
        header.write_tree(tree, self.text, self.btf)
        os.environ["BCC_KERNEL_SOURCE"] = tree

    def __exit__(self, *ignored: object) -> None:
        if self.root:
            import shutil

            shutil.rmtree(self.root, ignore_errors=True)


def _directory() -> str:
    """The path of a new directory, with a lock on it.

    compiler.sweep() removes those whose lock has gone.
    """
    import tempfile

    compiler.sweep()
    reason = None
    for parent in compiler.SCRATCH:
        try:
            path = tempfile.mkdtemp(prefix=f"{compiler.SCRATCH_PREFIX}{sys.argv[1]}-", dir=parent)
        except OSError as exc:
            reason = exc.strerror
            continue
        fcntl.flock(os.open(path, os.O_RDONLY | os.O_DIRECTORY), fcntl.LOCK_SH)
        return path if os.path.isdir(path) else _directory()  # removed before it was locked
    raise Error(
        f"cannot compile the BPF program: no directory for header files in "
        f"{', '.join(compiler.SCRATCH)}: {reason}"
    )


def _compile(request: Request, text: str, btf: types.Btf | None) -> tuple[dict[str, Any], bytes]:
    """(metadata, instructions) that bcc makes of a text."""
    try:
        import bcc
        from bcc.libbcc import lib
    except ImportError:
        raise compiler.not_installed() from None
    _declare(lib)
    _hide_kallsyms()
    bcc.BPF._trace_autoload = lambda self: None  # compile; attach and load nothing
    try:
        # Without debug information: bcc would make BTF of it, which no program of the suite uses.
        module = bcc.BPF(text=text, cflags=["-g0"])
    except Exception as exc:  # bcc raises bare Exception, clang has said why on stderr
        raise Error(f"cannot compile {request['name']}: {exc}") from None
    compiled: dict[str, Any] = {
        "compiler": f"bcc {bcc.__version__}",
        "maps": [],
        "layouts": {},
        "functions": [],
    }
    kfuncs: list[int | None] = []
    if btf is not None:
        kfuncs = [btf.find(name.rstrip("?"), types.FUNC) for name in request["kfuncs"]]
    handle = module.module
    descriptors = _maps(lib, handle, compiled)
    code = []
    for i in range(lib.bpf_num_functions(handle)):
        name = lib.bpf_function_name(handle, i)
        instructions, maps, params = _relocate(
            module.dump_func(name), descriptors, request["params"], kfuncs
        )
        compiled["functions"].append([name.decode(), len(instructions), maps, params])
        code.append(instructions)
    if (lib.bpf_module_license(handle) or b"GPL") != b"GPL":
        raise Error(f"cannot compile {request['name']}: its license is not GPL")
    return compiled, b"".join(code)


def _hide_kallsyms() -> None:
    """Let /proc/kallsyms be empty for this process.

    bcc reads all of it, for 100 ms, to find whether the kernel has two helpers; the programs do not
    depend on the answer (crisis.bpf.h).  Without CAP_SYS_ADMIN it is read.
    """
    libc = ctypes.CDLL(None)
    if libc.unshare(_CLONE_NEWNS) or libc.mount(b"none", b"/proc", None, _MS_REC_PRIVATE, None):
        return
    libc.mount(b"/dev/null", b"/proc/kallsyms", None, _MS_BIND, None)


def _maps(lib: Any, handle: int, meta: dict[str, Any]) -> dict[int, int]:
    """Put the maps of a module into `meta`; {descriptor in this process: index there}."""
    descriptors: dict[int, int] = {}
    for i in range(lib.bpf_num_tables(handle)):
        name = lib.bpf_table_name(handle, i).decode()
        key_size, value_size = (
            lib.bpf_table_key_size_id(handle, i),
            lib.bpf_table_leaf_size_id(handle, i),
        )
        key = _type(lib.bpf_table_key_desc_id(handle, i), key_size, meta["layouts"])
        value = _type(lib.bpf_table_leaf_desc_id(handle, i), value_size, meta["layouts"])
        if name.startswith("record_"):  # RECORD of crisis.bpf.h
            continue
        descriptors[lib.bpf_table_fd_id(handle, i)] = len(meta["maps"])
        type_ = _TASK_STORAGE if key == "task_storage_key" else lib.bpf_table_type_id(handle, i)
        meta["maps"].append(
            [
                name,
                type_,
                key_size,
                value_size,
                lib.bpf_table_max_entries_id(handle, i),
                lib.bpf_table_flags_id(handle, i),
                key,
                value,
            ]
        )
    return descriptors


def _type(text_of_type: bytes, size: int, layouts: dict[str, str]) -> str:
    """What Object.maps has of a type that bcc describes; a struct's layout goes into `layouts`."""
    description = json.loads(text_of_type)
    text = record.describe(description, size)
    if text is None or isinstance(description, str):
        return text or "-"
    name: str = description[0]
    layouts[name] = text
    return name or "-"


def _relocate(
    dumped: bytes, descriptors: dict[int, int], params: list[str], kfuncs: Sequence[int | None] = ()
) -> tuple[bytes, list[tuple[int, int]], list[tuple[int, str]]]:
    """The instructions of a function without the child's map descriptors and the parameters' magic.

    Returns (instructions, [(byte offset, map index)], [(byte offset, parameter name)]).
    Calls of kernel functions get the functions' BTF ids, since the object is this kernel's only.
    """
    code, at = bytearray(dumped), 0
    maps: list[tuple[int, int]] = []
    found: list[tuple[int, str]] = []
    while at < len(code):
        wide = code[at] == _LD_IMM64
        if wide:
            low, high = (
                struct.unpack_from("=I", code, at + 4)[0],
                struct.unpack_from("=I", code, at + 12)[0],
            )
            if code[at + 1] >> 4 == _PSEUDO_MAP_FD:
                maps.append((at, descriptors[low]))
                struct.pack_into("=I", code, at + 4, 0)
            elif high == _PARAM_MAGIC:
                found.append((at, params[low]))
                struct.pack_into("=I", code, at + 4, 0)
                struct.pack_into("=I", code, at + 12, 0)
        elif code[at] == _CALL:
            number = struct.unpack_from("=I", code, at + 4)[0]
            if number & 0xFF000000 == _KFUNC_MAGIC:
                code[at + 1] = code[at + 1] & 0x0F | _PSEUDO_KFUNC_CALL << 4
                struct.pack_into("=I", code, at + 4, kfuncs[number - _KFUNC_MAGIC])
        at += 16 if wide else 8
    return bytes(code), maps, found


def _declare(lib: Any) -> None:
    """bcc's Python module gives no prototypes for the calls by table number."""
    for name, result in (
        ("name", ctypes.c_char_p),
        ("type_id", ctypes.c_int),
        ("key_size_id", ctypes.c_size_t),
        ("leaf_size_id", ctypes.c_size_t),
        ("max_entries_id", ctypes.c_size_t),
        ("flags_id", ctypes.c_int),
        ("fd_id", ctypes.c_int),
        ("key_desc_id", ctypes.c_char_p),
        ("leaf_desc_id", ctypes.c_char_p),
    ):
        function = getattr(lib, "bpf_table_" + name)
        function.argtypes, function.restype = [ctypes.c_void_p, ctypes.c_size_t], result


if __name__ == "__main__":
    die_with_parent(signal.SIGKILL)
    if os.getppid() != int(sys.argv[1]):  # it has ended before
        os._exit(1)
    main()
