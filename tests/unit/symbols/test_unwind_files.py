# SPDX-License-Identifier: GPL-2.0-or-later
"""The unwinder: whole files against readelf, stacks of programs against gdb and against what they
are.
"""

import functools
import json
import os
import re
import shutil
import struct
import subprocess
import tempfile

import pytest

from crisis.kernel.maps import mappings
from crisis.symbols import unwind
from crisis.symbols.eh_frame import Table
from crisis.symbols.elf import Elf
from crisis.symbols.machine import AARCH64, MACHINE, X86_64
from crisis.symbols.unwind import AddressSpace, End
from elf_image import REGISTERS, reader, shown, table_of
from helpers import ROOT, SLOW

ALL = int(os.environ.get("CRISIS_TRIES", "0")) >= 20000
MASK = (1 << 48) - 1


def needs(*programs):
    """Skip the test where one of these is not installed."""
    for program in programs:
        if not shutil.which(program):
            pytest.skip(f"{program} is not installed")


def file_table(path, machine=MACHINE):
    with open(path, "rb") as f:
        return table_of(f.read(), machine)


# Whole files


def interpreted(path, readelf="readelf", arguments=()):
    """{(first address, address behind): {address: (CFA, {register: rule})}} of each FDE, by
    readelf.
    """
    text = subprocess.run(
        [readelf, "-W", "--debug-dump=frames-interp", *arguments, path],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=dict(os.environ, LC_ALL="C"),
        text=True,
    ).stdout
    found, rows, columns = {}, None, ()
    for line in text.splitlines():
        head = re.search(r" FDE .*pc=([0-9a-f]+)\.\.([0-9a-f]+)", line)
        fields = line.split()
        if head:
            rows = found.setdefault((int(head.group(1), 16), int(head.group(2), 16)), {})
        elif " CIE " in line or line.startswith("Contents of"):
            rows = None
        elif fields[:2] == ["LOC", "CFA"]:
            columns = fields[2:]
        elif (
            rows is not None
            and len(fields) > 1
            and fields[1] != "ZERO"
            and re.fullmatch("[0-9a-f]{8,16}", fields[0])
        ):
            # A register's number has its name behind it.
            rules = [
                field.strip("()")
                for field, after in zip(fields, fields[1:] + [""])
                if not after.startswith("(")
            ]
            rows[int(fields[0], 16)] = rules[1], dict(zip(columns, rules[2:]))
    assert found
    return found


def compare(path, machine, readelf="readelf", most=4000):
    """All FDEs of a file, and some thousand of their rows; returns how many."""
    needs(readelf)
    text = subprocess.run([readelf, "--version"], stdout=subprocess.PIPE, text=True).stdout
    version = tuple(map(int, re.search(r" (\d+)\.(\d+)", text).groups()))
    if version < (2, 40):
        major, minor = version
        pytest.skip(f"{readelf} is {major}.{minor}: 2.35 loses rules at DW_CFA_restore_state")
    table, expected, wrong = file_table(path, machine), interpreted(path, readelf), []
    spans = [table.entry(table.index.place(i))[1:3] for i in range(len(table.index))]
    assert sorted(spans) == sorted(expected)
    rows = [(location, row) for fde in expected.values() for location, row in fde.items()]
    step = max(1, len(rows) // most) if not ALL else 1
    rows = rows[::step] + [row for row in rows if row[1][0] == "exp" or "exp" in row[1][1].values()]
    for location, (cfa, registers) in rows:
        found_cfa, found = shown(table.rules(location), machine)
        # readelf prints "u" for a register without a rule.
        own = {name: found.get(name, "u") for name in registers if name in REGISTERS[machine]}
        ours = {name: text for name, text in registers.items() if name in REGISTERS[machine]}
        if found_cfa != cfa or own != ours or set(found) - set(registers):
            wrong.append((hex(location), cfa, registers, found_cfa, found))
    assert not wrong, f"{len(wrong)} of {len(rows)}: {wrong[:5]}"
    return len(rows), len(spans)


def installed(*names):
    """The first of these files that exists, or a skip."""
    for name in names:
        if os.path.exists(name):
            return os.path.realpath(name)
    pytest.skip(f"{names[0]} is not installed")


LIBRARIES = f"/usr/lib/{os.uname().machine}-linux-gnu/", "/usr/lib64/"


@pytest.mark.parametrize(
    "name", ["libc.so.6", "/usr/bin/python3", "/usr/bin/git", "libcrypto.so.3", "libstdc++.so.6"]
)
def test_files(name):
    path = installed(*[os.path.join(directory, name) for directory in LIBRARIES])
    rows, functions = compare(path, MACHINE)
    assert rows > 1000 and functions > 500


def test_files_of_arm64():
    path = installed("/usr/aarch64-linux-gnu/lib/libc.so.6")
    rows, functions = compare(path, AARCH64, "aarch64-linux-gnu-readelf")
    assert rows > 1000 and functions > 500


# Stacks of programs


def parsed(text):
    """The mappings of a text of /proc/PID/maps."""
    with tempfile.TemporaryDirectory() as root:
        os.makedirs(os.path.join(root, "proc/1"))
        with open(os.path.join(root, "proc/1/maps"), "w") as f:
            f.write(text)
        return mappings(1, root)


class Process:
    """The address space of a program that has run, from its files.  files: {identity: (Elf, Table
    or None)}.
    """

    def __init__(self, machine):
        self.machine, self.files, self.paths, self.rows = machine, {}, {}, None
        self.space = AddressSpace(self.table)

    def table(self, identity):
        if identity not in self.files and identity in self.paths:
            with open(self.paths[identity], "rb") as f:
                data = f.read()
            elf = Elf(data)
            try:
                self.files[identity] = elf, Table(elf, reader(data), self.machine)
            except ValueError:
                self.files[identity] = elf, None
        return self.files.get(identity, (None, None))[1]

    def update(self, rows):
        if rows != self.rows:
            self.rows = rows
            self.paths.update({row[4]: row[5] for row in rows if row[5].startswith("/")})
            self.space.update(rows)

    def is_code(self, address):
        return any(row[2] and row[0] <= address < row[1] for row in self.rows)

    def names(self, addresses, path):
        """The functions, of those addresses that are in a file, by its full symbol table."""
        found = []
        for address in addresses:
            for start, end, _, offset, identity, name in self.rows:
                if start <= address - 1 < end and name == path:
                    elf = self.files[identity][0]
                    found.append(function(path, elf.address(address - 1 - start + offset)))
        return found


@functools.lru_cache(None)
def functions(path):
    """[(virtual address, name)] of the functions of a file, by nm."""
    rows = subprocess.run(["nm", "-n", path], stdout=subprocess.PIPE, check=True, text=True).stdout
    return [
        (int(row[0], 16), row[2])
        for row in map(str.split, rows.splitlines())
        if len(row) == 3 and row[1] in "tTwW"
    ]


def function(path, address):
    """The name of the function at a virtual address, by nm."""
    return [name for start, name in functions(path) if start <= address][-1]


def captured(command, path, machine):
    """What tests/fixtures/nested.c has written: the walk, its Process and the copy of the stack."""
    raw = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=60 * SLOW).stdout
    head, size = struct.unpack_from("=16Q", raw), struct.unpack_from("=Q", raw, 16)[0]
    process = Process(machine)
    process.update(parsed(raw[128 + size :].decode()))
    highest = max(row[1] for row in process.rows if row[1] < 1 << 56)
    # qemu-user has 48 bits, and its programs in the lower ones.
    mask = unwind.address_mask(highest) if machine is MACHINE else MASK
    copy, saved = raw[128 : 128 + size], head[3 : 3 + len(machine.saved)]
    walked = unwind.unwind(process.space, head[0], head[1], saved, copy, machine=machine, mask=mask)
    return walked, process, copy


NESTED = ["capture", "handler", "compare", "middle", "aligned", "outer", "main", "_start"]


def built(directory, compiler, *flags):
    needs(compiler, "nm")
    path = str(directory / "nested")
    command = [compiler, "-O2", *flags, "-o", path, os.path.join(ROOT, "tests/fixtures/nested.c")]
    result = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    if result.returncode and "cannot find" in result.stderr:
        pytest.skip(f"{compiler} has no libraries for that: {result.stderr.splitlines()[0]}")
    assert result.returncode == 0, result.stderr
    return path


@pytest.mark.parametrize("compiler,flag", [("gcc", "-pie"), ("gcc", "-static"), ("clang", "-pie")])
@pytest.mark.parametrize("signal", [False, True])
def test_nested_calls(tmp_path, compiler, flag, signal):
    """libc's qsort, a signal's frame, a realigned one, one of variable size; gcc -static makes no
    search table.
    """
    path = built(tmp_path, compiler, "-fomit-frame-pointer", *["-fPIE"] * (flag == "-pie"), flag)
    found, process, _ = captured([path, *["signal"] * signal], path, MACHINE)
    names = [name for name in process.names(found.addresses, path) if name in NESTED]
    assert (found.end, names) == (End.OUTERMOST, NESTED)
    assert len(found.addresses) >= len(NESTED) + 3 + 2 * signal


@pytest.mark.parametrize(
    "flag", ["-pie", "-fomit-frame-pointer", "-mbranch-protection=standard", "-static"]
)
def test_nested_calls_of_arm64(tmp_path, flag):
    """The same under qemu-user, also with signed return addresses."""
    needs("aarch64-linux-gnu-gcc", "qemu-aarch64-static")
    path = built(tmp_path, "aarch64-linux-gnu-gcc", flag)
    command = ["qemu-aarch64-static", "-cpu", "max", "-L", "/usr/aarch64-linux-gnu", path]
    found, process, copy = captured(command, path, AARCH64)
    assert [name for name in process.names(found.addresses, path) if name in NESTED] == NESTED
    assert found.end is End.OUTERMOST
    signed = [
        word
        for word in struct.unpack(f"={len(copy) // 8}Q", copy[: len(copy) // 8 * 8])
        if word & MASK in found.addresses and word >> 48
    ]
    assert bool(signed) == ("-mbranch-protection=standard" in flag)


# Runs in gdb: stops at an instruction of libc's malloc, or where the program stops itself, and
# writes a JSON object.
GDB = r"""
import gdb, json, os
for setting in ("pagination off", "backtrace past-main on", "backtrace past-entry on",
                "debuginfod enabled off", "breakpoint pending on", "confirm off"):
    try:
        gdb.execute("set " + setting)
    except gdb.error:
        pass
out = open(os.environ["STOPS"], "w")
most, every = int(os.environ["MOST"]), int(os.environ["EVERY"])
if every:
    gdb.execute("break __libc_start_main")
    gdb.execute("run")
    gdb.execute("delete")
    # Not the first instruction: a uprobe of others may be there, whose int3 only the file does not
    # have.
    start = int(gdb.parse_and_eval("(long)&__libc_malloc"))
    gdb.execute("set trust-readonly-sections on")
    second = gdb.newest_frame().architecture().disassemble(start, count=2)[1]["addr"]
    gdb.execute("set trust-readonly-sections off")
    gdb.execute("break *%d" % second)
    gdb.execute("continue")
else:
    gdb.execute("handle SIGUSR1 nostop noprint pass")
    gdb.execute("run")
for _ in range(most):
    process = gdb.selected_inferior()
    if not process.pid:
        break
    frame = gdb.newest_frame()
    registers = {name: int(frame.read_register(name)) & (1 << 64) - 1
                 for name in ("rip", "rsp", "rbx", "rbp", "r12", "r13", "r14", "r15")}
    maps = open("/proc/%d/maps" % process.pid).read()
    sp = registers["rsp"]
    ends = [int(row.split()[0].split("-")[1], 16) for row in maps.splitlines()]
    end = min(end for end in ends if end > sp)
    chain = []
    while frame is not None and frame.is_valid():
        # tail calls and inlined ones have no frame
        if frame.type() in (gdb.NORMAL_FRAME, gdb.SIGTRAMP_FRAME):
            chain.append(frame.pc())
        frame = frame.older()
    copy = process.read_memory(sp, min(16384, end - sp)).tobytes()
    record = {"registers": registers, "stack": copy.hex(), "chain": chain, "maps": maps}
    out.write(json.dumps(record) + "\n")
    gdb.execute("continue %d" % every if every else "continue")
out.close()
gdb.execute("kill")
"""


def stops(directory, command, most, every, **options):
    """[(walk, gdb's chain up to the first address that is no code)] of a program, for each stop,
    and the Process.
    """
    needs("gdb")
    if MACHINE is not X86_64:
        pytest.skip("written for the registers of x86-64")
    script, results = directory / "stops.py", directory / "stops"
    script.write_text(GDB)
    env = dict(
        os.environ,
        STOPS=str(results),
        MOST=str(most),
        EVERY=str(every),
        LC_ALL="C",
        SHELL="/bin/sh",
    )
    result = subprocess.run(
        ["gdb", "-nx", "-q", "-batch", "-x", str(script), "--args", *command],
        env=env,
        timeout=120 * SLOW,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        errors="replace",
        **options,
    )
    rows = (
        [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    )
    if not rows:
        pytest.skip(
            "gdb cannot run a program here, or has no Python: "
            f"{' '.join(result.stdout.split())[-300:]}"
        )
    found, process = [], Process(X86_64)
    for row in rows:
        process.update(parsed(row["maps"]))
        registers = row["registers"]
        saved = [registers[name] for name in ("rbx", "rbp", "r12", "r13", "r14", "r15")]
        walked = unwind.unwind(
            process.space,
            registers["rip"],
            registers["rsp"],
            saved,
            bytes.fromhex(row["stack"]),
            call=False,
            machine=X86_64,
        )
        chain = row["chain"]
        good = [i == 0 or process.is_code(address - 1) for i, address in enumerate(chain)] + [False]
        found.append((walked, tuple(chain[: good.index(False)])))
    return found, process


def test_nested_calls_against_gdb(tmp_path):
    path = built(tmp_path, "gcc", "-fomit-frame-pointer")
    for arguments in ["stop"], ["signal", "stop"]:
        (found, *_), process = stops(tmp_path, [path, *arguments], 1, 0)
        walked, chain = found
        assert walked == (chain, End.OUTERMOST) and process.names(chain, path) == NESTED


@pytest.mark.parametrize(
    "program,command,every,least",
    [
        (
            "dash",
            [
                "-c",
                'for i in 1 2 3 4 5 6 7 8 9; do for j in 1 2 3 4 5 6; do eval "x$i$j=foo$i"; '
                "done; done",
            ],
            1,
            20,
        ),
        ("python3", ["-I", "-c", "import json, argparse"], 30, 20),
        ("git", ["init", "-q", "new"], 3, 20),
    ],
)
def test_stacks_against_gdb(tmp_path, program, command, every, least):
    """At malloc: each stack is gdb's, or, where the copy is too short, its beginning."""
    needs(program)
    found, _ = stops(tmp_path, ["/usr/bin/" + program, *command], 60, every, cwd=str(tmp_path))
    wrong = [
        (walked, chain)
        for walked, chain in found
        if walked.addresses != chain
        and not (walked.end is End.SHORT and walked.addresses == chain[: len(walked.addresses)])
    ]
    assert len(found) >= least and not wrong, wrong[:2]
    # A uretprobe of somebody else may be at malloc in the whole system; Python 3.9 often has more
    # than 16 KB of stack.
    assert sum(
        walked.end in (End.OUTERMOST, End.RETURN_PROBE) for walked, _ in found
    ) >= 0.75 * len(found)
