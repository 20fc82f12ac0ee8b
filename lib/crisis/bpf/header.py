# SPDX-License-Identifier: GPL-2.0-or-later
"""The running kernel's types as a small C header made from its BTF, so that bcc needs no kernel
headers.

bcc looks for kernel headers in $BCC_KERNEL_SOURCE and includes
include/linux/kconfig.h from there first.  `write_tree` makes such a directory:
a kconfig.h that holds every type that the program names, each struct with only
the members that the program names, at their BTF offsets and with the kernel's
size; and an empty file for each header that bcc or the program includes.

Touches neither bcc nor the kernel beyond reading files.
"""

from __future__ import annotations

import os
import re
import struct

from .btf import ARRAY, ENUM, ENUM64, FLOAT, FUNC_PROTO, FWD, INT, PTR, STRUCT, TYPEDEF, UNION

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Set

    from .btf import Btf

__all__ = ["prune", "write_tree"]

# Types that bcc's own headers or a program's C text take for granted.
_ALWAYS = [
    "u8",
    "u16",
    "u32",
    "u64",
    "s8",
    "s16",
    "s32",
    "s64",
    "__u8",
    "__u16",
    "__u32",
    "__u64",
    "__s8",
    "__s16",
    "__s32",
    "__s64",
    "__le16",
    "__le32",
    "__le64",
    "__be16",
    "__be32",
    "__be64",
    "__wsum",
    "__sum16",
    "bool",
    "size_t",
    "ssize_t",
    "pid_t",
    "dev_t",
    "gfp_t",
    "sector_t",
    "loff_t",
    "off_t",
    "uid_t",
    "gid_t",
    "umode_t",
    "mode_t",
    "clockid_t",
    "uint8_t",
    "uint16_t",
    "uint32_t",
    "uint64_t",
    "int8_t",
    "int16_t",
    "int32_t",
    "int64_t",
    "uintptr_t",
    "ktime_t",
    "time64_t",
]
# Read through the context pointer, where the verifier wants the whole and natural layout.
_WHOLE = ("pt_regs", "user_pt_regs", "bpf_perf_event_data")
# bcc's bpf.h, compiled in, declares these itself.
_BCC_OWNS = re.compile(r"bpf_(?!perf_event_data|user_pt|iter__|iter_meta)|BPF_|xdp_|btf_")
_WORD = re.compile(r"[A-Za-z_]\w*")
_DEFINE = re.compile(r"#\s*define\s+(\w+)")
_COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.S)
_OWN_TYPE = re.compile(
    r"\b(?:struct|union|enum)\s+(\w+)\s*\{|\}\s*(\w+)\s*;|\btypedef\b[^;{]*?(\w+)\s*;"
)


class _Writer:
    """Emits C declarations, each after those that it needs by value."""

    def __init__(self, btf: Btf, words: Set[str], own: Set[str]) -> None:
        self.btf, self.words, self.own = btf, words, own
        self.done: set[int] = set()  # ids that have been emitted
        self.out: list[str] = []
        self.later: list[int] = []  # ids of which only a pointer has been emitted
        self.forward: set[str] = set()  # names that have been declared only

    def declare(self, number: int, inner: str, by_value: bool = True) -> str:
        """The C declaration of `inner` with that type; emits or forward-declares what it names."""
        btf = self.btf
        number = btf.skip(number)
        name, kind, _, flag, target, position = btf.type(number)
        if kind == 0:
            return "void " + inner
        if kind in (INT, FLOAT):
            return f"{name} {inner}"
        if kind == PTR:
            pointed = btf.type(btf.skip(target))[1]
            if pointed == FUNC_PROTO:
                return "void *" + inner
            return self.declare(target, f"(*{inner})" if pointed == ARRAY else "*" + inner, False)
        if kind == ARRAY:
            element, _, length = btf.words(position, 3)
            return self.declare(element, f"{inner}[{length}]", by_value)
        if kind in (STRUCT, UNION):
            return self.structure(number, inner, by_value)
        if kind in (ENUM, ENUM64):
            if name and name not in self.own:
                self.emit(number)
                return f"enum {name} {inner}"
            integer = "int" if target <= 4 else "long long"
            return f"{integer} {inner}"
        if kind == FWD:
            word = "union" if flag else "struct"
            self.announce(word, name)
            return f"{word} {name} {inner}"
        if kind == TYPEDEF:
            if name in self.own:
                return self.declare(target, inner, by_value)
            self.emit(number)
            return f"{name} {inner}"
        return "void *" + inner

    def structure(self, number: int, inner: str, by_value: bool) -> str:
        """As declare(), of a struct or union."""
        name, kind, _, _, size, _ = self.btf.type(number)
        word = "struct" if kind == STRUCT else "union"
        if not name:
            return f"{self.body(number)} {inner}"
        if name in self.own and by_value:
            # The program has a type of that name; of the kernel's only the size matters here.
            return f"struct {{ char __bytes[{size}]; }} {inner}"
        if by_value:
            self.emit(number)
        else:
            self.announce(word, name)
            self.later.append(number)
        return f"{word} {name} {inner}"

    def announce(self, word: str, name: str) -> None:
        if name not in self.forward and name not in self.own:
            self.forward.add(name)
            self.out.append(f"{word} {name};")

    def alignment(self, number: int) -> int:
        _, kind, _, _, size, position = self.btf.type(self.btf.skip(number))
        if kind == PTR:
            return struct.calcsize("P")
        if kind in (INT, ENUM, ENUM64, FLOAT):
            return min(size, 8)
        if kind == TYPEDEF:
            return self.alignment(size)
        if kind == ARRAY:
            return self.alignment(self.btf.words(position, 1)[0])
        if kind in (STRUCT, UNION):
            return max(
                [self.alignment(m[1]) for m in self.btf.members(self.btf.skip(number))] or [1]
            )
        return 1

    def body(self, number: int) -> str:
        """A struct or union with the named members at their offsets, and its true size.

        Each member sits in a union, behind its own padding.  Only what is
        misaligned is packed: packing everything would make clang load bytes,
        which the verifier refuses on a context and which a probe must not tear.
        """
        btf = self.btf
        name, kind, vlen, _, size, _ = btf.type(number)
        word = "struct" if kind == STRUCT else "union"
        if name in _WHOLE:
            members = list(btf.members(number))
            if kind == STRUCT and len(members) == vlen:
                lines = [
                    f"\t{self.declare(target, member)}{_width(width)};\n"
                    for member, target, _, width in members
                ]
                return f"struct {name} {{\n{''.join(lines)}}}"
        parts = []
        for member, target, offset, width in btf.members(number):
            if member not in self.words and name not in _WHOLE:
                continue
            parts.append(self.placed(member, target, offset, width))
        if size:
            parts.append(f"\tchar __size[{size}];\n")
        align = f" __attribute__((aligned({self.alignment(number)})))" if size else ""
        if kind == STRUCT:
            return f"{word} {name} {{\n\tunion {{\n{''.join(parts)}\t}};\n}}{align}"
        return f"{word} {name} {{\n{''.join(parts)}}}{align}"

    def placed(self, member: str, target: int, offset: int, width: int) -> str:
        """A struct with one member at an offset in bits; width: of a bit-field, or 0."""
        pad = offset // 8
        before = f"char __at_{member}[{pad}]; " if pad else ""
        if width and offset % 8:
            before += f"unsigned long :{offset % 8}; "
        packed = " __attribute__((packed))" if width or pad % self.alignment(target) else ""
        return f"\tstruct {{ {before}{self.declare(target, member)}{_width(width)}; }}{packed};\n"

    def emit(self, number: int) -> None:
        if number in self.done:
            return
        self.done.add(number)
        name, kind, _, _, target, _ = self.btf.type(number)
        if name in self.own:
            return
        if kind == TYPEDEF:
            text = "typedef " + self.declare(target, name)
        elif kind in (STRUCT, UNION):
            text = self.body(number)
        else:
            constants = [
                f"{constant} = {_literal(value)}"
                for constant, value in self.btf.enumerators(number)
            ]
            text = f"enum {name} {{ {', '.join(constants)} }}"
        self.out.append(text + ";")


def _width(width: int) -> str:
    return f":{width}" if width else ""


def _literal(value: int) -> str:
    if -1 << 31 <= value < 1 << 31:
        return f"{value}"
    return f"{value}ULL" if value >= 1 << 63 else f"{value}LL"


def prune(btf: Btf, text: str) -> str:
    """C declarations, from BTF, of the types, members and enumeration constants that `text` names.

    btf: a Btf.  text: a C program; what it defines itself is left to it.
    """
    text = _COMMENT.sub(" ", text)  # prose that happens to name a type
    own = {name for match in _OWN_TYPE.findall(text) for name in match if name}
    words = set(_WORD.findall(text))
    writer = _Writer(btf, words, own)
    wanted = [
        w
        for w in sorted(words | set(_ALWAYS) | {"pt_regs"})
        if w not in own and not _BCC_OWNS.match(w)
    ]
    # One type to a tag: Debian's kernels have a struct context and an enum context.
    for kinds in (TYPEDEF,), (STRUCT, UNION, ENUM, ENUM64):
        for word in wanted:
            number = btf.find(word, *kinds)
            if number is not None:
                writer.emit(number)
    while writer.later:
        writer.emit(writer.later.pop())
    # Constants of enumerations that no emitted type mentions.
    emitted = {
        name for number in btf.enums if number in writer.done for name, _ in btf.enumerators(number)
    }
    loose = set(wanted) - emitted - set(_DEFINE.findall(text))
    for name, value in btf.constants(sorted(loose)).items():
        # Not a macro: the kernel has constants called none and all, as a program may call its
        # variables.
        writer.out.append(f"enum {{ {name} = {_literal(value)} }};")
    return "\n".join(writer.out) + "\n"


# What kernel headers would define and BTF, which has no macros, does not.
_KCONFIG = """\
#ifndef CRISIS_KCONFIG
#define CRISIS_KCONFIG
#define CRISIS_BTF 1
#undef __seg_gs
#undef __seg_fs
#define __seg_gs
#define __seg_fs
%(types)s
#define KERNEL_VERSION(a, b, c) (((a) << 16) + ((b) << 8) + ((c) > 255 ? 255 : (c)))
#define LINUX_VERSION_CODE KERNEL_VERSION(%(version)s)
#define CONFIG_BPF_SYSCALL 1
#define %(arch)s 1
#define __always_inline inline __attribute__((always_inline))
#define noinline __attribute__((noinline))
#define TASK_RUNNING 0
#define TASK_COMM_LEN 16
#define PAGE_SHIFT %(page_shift)d
#define PAGE_SIZE (1UL << PAGE_SHIFT)
#define NULL ((void *)0)
#define __aligned_u64 __u64 __attribute__((aligned(8)))
#define __aligned_be64 __be64 __attribute__((aligned(8)))
#define __aligned_le64 __le64 __attribute__((aligned(8)))
#define roundup_pow_of_two(n) ((n) <= 1 ? 1 : 1UL << (64 - __builtin_clzl((n) - 1)))
#endif
"""
_ARCH = {
    "x86_64": "CONFIG_X86_64",
    "aarch64": "CONFIG_ARM64",
    "ppc64le": "CONFIG_PPC64",
    "s390x": "CONFIG_S390",
    "riscv64": "CONFIG_RISCV",
}
# What bcc 0.18 to 0.35 include by themselves; a file more does no harm.
_STAND_INS = [
    "linux/types.h",
    "linux/bpf_common.h",
    "linux/version.h",
    "linux/log2.h",
    "linux/sched.h",
    "linux/err.h",
    "linux/errno.h",
    "asm/page.h",
    "asm/types.h",
    "asm/ptrace.h",
    "uapi/linux/bpf.h",
    "uapi/linux/bpf_common.h",
    "uapi/linux/types.h",
    "uapi/linux/if_ether.h",
    "uapi/linux/if_packet.h",
    "uapi/linux/ptrace.h",
    "uapi/linux/perf_event.h",
    "uapi/linux/bpf_perf_event.h",
    "linux/bpf_perf_event.h",
    "linux/ptrace.h",
]
_INCLUDE = re.compile(r'^\s*#\s*include\s*[<"]([\w./+-]+)[>"]', re.M)


def write_tree(root: str, text: str, btf: Btf) -> None:
    """Make the directory `root`, empty so far, into what $BCC_KERNEL_SOURCE should point at.

    text: the C program; btf: the running kernel's Btf.
    """
    uname = os.uname()
    version = (re.findall(r"\d+", uname.release) + ["0"] * 3)[:3]
    include = os.path.join(root, "include")
    for name in _STAND_INS + [n for n in _INCLUDE.findall(text) if ".." not in n.split("/")]:
        path = os.path.join(include, name.lstrip("/"))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        open(path, "w").close()
    with open(os.path.join(include, "linux/kconfig.h"), "w") as out:
        out.write(
            _KCONFIG
            % {
                "types": prune(btf, text),
                "version": ", ".join(version),
                "arch": _ARCH.get(uname.machine, "CONFIG_UNKNOWN_ARCH"),
                "page_shift": os.sysconf("SC_PAGE_SIZE").bit_length() - 1,
            }
        )
