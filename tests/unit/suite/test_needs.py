# SPDX-License-Identifier: GPL-2.0-or-later
"""What the commands need, against what they import and declare; and what follows for a machine."""

import ast
import os
import types

import pytest

from crisis import bpf
from crisis.suite import checks, commands, needs
from crisis.suite.answer import NO, UNKNOWN, WORKS, Answer
from helpers import ROOT

BIN = os.path.join(ROOT, "bin")
LIB = os.path.join(ROOT, "lib", "crisis")
# These two look at all others.
SUITE = {"crisis-check", "crisis-warm"}
COMMANDS = [name for name in commands.names(BIN) if name not in SUITE]
PROGRAMS = commands.programs(COMMANDS, BIN)
# (command, source): the command imports the module for something else.
OTHER_USE = {("cputemp", "throttling"), ("use", "msr"), ("use", "sensors"), ("use", "thermal_msr")}


def module_path(name):
    """The file of a module of lib/crisis, or None."""
    base = os.path.join(LIB, *name.split("."))
    for path in base + ".py", os.path.join(base, "__init__.py"):
        if os.path.isfile(path):
            return path
    return None


def imports(path, package):
    """The modules of lib/crisis that a file imports, also inside functions."""
    with open(path) as f:
        tree = ast.parse(f.read())
    found = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom):
            continue
        words = node.module.split(".") if node.module else []
        if node.level:
            base = package[: len(package) - node.level + 1] + words
        elif words[:1] == ["crisis"]:
            base = words[1:]
        else:
            continue
        found.add(".".join(base))
        found.update(".".join([*base, alias.name]) for alias in node.names)
    return {name for name in found if name and module_path(name)}


def reached(command, known={}):  # noqa: B006
    """All modules that a command imports, and those that they import."""
    pending, found = imports(os.path.join(BIN, command), []), set()
    while pending:
        name = pending.pop()
        if name not in found:
            found.add(name)
            if name not in known:
                path = module_path(name)
                known[name] = imports(path, os.path.relpath(path, LIB).split(os.sep)[:-1])
            pending |= known[name]
    return found


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_needs_the_sources_whose_modules_it_imports(command):
    modules = reached(command)
    imported = {
        source
        for source, module in needs.OWNERS.items()
        if module in modules and (command, source) not in OTHER_USE
    }
    assert needs.used(command, PROGRAMS[command]) & set(needs.OWNERS) == imported


def test_every_command_has_a_way_to_measure():
    for command in [*COMMANDS, "crisis-warm"]:
        assert needs.ways(command, PROGRAMS.get(command, {}), {}), command


def test_the_tables_name_what_there_is():
    assert set(needs.WAYS) | set(needs.ALSO) <= {*COMMANDS, *SUITE}
    for module in needs.OWNERS.values():
        assert module_path(module), module
    used = {name for command in COMMANDS for name in needs.used(command, PROGRAMS[command])}
    assert used <= set(checks.CHECKS)
    # What the suite does not use: for people, and for commands to come.
    assert set(checks.CHECKS) - used == {"bpf_stats", "schedstat", "stack_trace"}
    assert set(needs.OWNERS) <= set(checks.CHECKS)


def test_every_kind_of_program_has_a_source():
    from crisis.bpf import program

    assert set(checks.KINDS) == set(program.KINDS)
    assert set(checks.KINDS.values()) <= set(checks.CHECKS)


def test_what_a_command_with_bpf_uses():
    used = needs.used("memleak", PROGRAMS["memleak"])
    assert {"bpf", "tp_btf", "raw_tp", "uprobe", "uprobe_multi", "uprobe_session"} <= used
    assert {"ringbuf", "task_storage", "kallsyms", "ptrace"} <= used and "fentry" not in used
    assert {"fentry", "kprobe", "tracepoint", "kmsg"} <= needs.used("oomkill", PROGRAMS["oomkill"])
    assert "ringbuf" not in needs.used("runqlat", PROGRAMS["runqlat"])


def test_only_tsa_measures_with_and_without_programs():
    assert {name for name in needs.WAYS if PROGRAMS.get(name)} == {"tsa"}
    found = needs.ways("tsa", PROGRAMS["tsa"], {})
    assert found[-1].name == "sample" and len(found) == len(PROGRAMS["tsa"]) + 1


def source(name, *points, **members):
    return bpf.Source(name, None, points, text="", **members)


def compiled(ids=(), maps=(), unusable=None):
    """An Object, as far as a Way looks at it."""
    return types.SimpleNamespace(
        ids=dict.fromkeys(ids, 1), maps=[["m", number] for number in maps], unusable=unusable
    )


def answers(**other):
    """Answers of all checks: they work but for the ones named."""
    found = {name: Answer(WORKS) for name in checks.CHECKS}
    found.update({name: Answer(state, "why") for name, state in other.items()})
    return found


TYPED = source("x.typed", ("fentry/f:on_f", "kprobe/f:on_f"), ("tp_btf/t:on_t",))
RAW = source("x.raw", ("raw_tp/t:on_t",), ("fexit/f:on_f", "none"))
OBJECTS = {"x.typed": compiled(("fentry/f", "tp_btf/t"), (27,)), "x.raw": compiled(("fexit/f",))}


def outcome(objects=OBJECTS, **other):
    found = needs.ways("x", {"typed": TYPED, "raw": RAW}, objects)
    return needs.for_command(found, answers(**other))


@pytest.mark.parametrize(
    "lacking, way, note",
    [
        ({}, "x.typed", "bpf fentry tp_btf ringbuf"),
        ({"fentry": NO}, "x.typed", "bpf kprobe tp_btf ringbuf"),
        ({"fentry": NO, "kprobe": NO}, "x.raw", "bpf raw_tp"),
        ({"tp_btf": UNKNOWN}, "x.raw", "bpf raw_tp"),
        ({"ringbuf": NO}, "x.raw", "bpf raw_tp"),
        ({"bcc": NO, "btf": NO, "headers": NO}, "x.typed", "bpf fentry tp_btf ringbuf"),
    ],
)
def test_the_first_way_that_works_is_taken(lacking, way, note):
    found = outcome(**lacking)
    assert (found.state, found.way.name, found.note, found.missing) == (WORKS, way, note, ())


def test_nothing_is_left():
    found = outcome(fentry=NO, kprobe=NO, raw_tp=NO)
    assert (found.state, found.way) == (NO, None)
    assert found.note == "fentry: why; raw_tp: why" and found.missing == ("fentry", "raw_tp")


def test_a_command_that_may_not_load_programs_ends_there():
    found = [*needs.ways("x", {"raw": RAW}, OBJECTS), needs.Way("sample", [("proc_syscall",)])]
    assert needs.for_command(found, answers(bpf=UNKNOWN)).missing == ("bpf",)
    assert needs.for_command(found, answers(raw_tp=NO)).way.name == "sample"


def test_what_may_work_is_not_called_broken():
    assert outcome(bpf=UNKNOWN).state == UNKNOWN
    assert outcome(tp_btf=UNKNOWN, raw_tp=NO).missing == ("tp_btf",)


def test_a_function_that_the_kernel_lacks_is_no_candidate():
    objects = dict(OBJECTS, **{"x.typed": compiled(("tp_btf/t",))})
    assert outcome(objects).note == "bpf kprobe tp_btf"
    assert outcome(objects, kprobe=NO).way.name == "x.raw"


def test_a_program_that_the_kernel_cannot_have():
    objects = {
        "x.typed": compiled(unusable="this kernel has no t"),
        "x.raw": compiled(unusable="none"),
    }
    found = outcome(objects)
    assert (found.state, found.note, found.missing) == (NO, "this kernel has no t; none", ())


def test_a_program_that_is_not_compiled_needs_the_compiler():
    assert outcome({}, bcc=NO).missing == ("bcc",)
    found = needs.ways("x", {"raw": RAW}, {})[0].outcome(answers(btf=NO))
    assert found.note == "bpf raw_tp bcc headers"


def test_wss_goes_on_without_idle_page_tracking():
    found = needs.ways("wss", {}, {})
    assert needs.for_command(found, answers()).way.name == "idle"
    assert needs.for_command(found, answers(idle_page=NO)).way.name == "clear_refs"


def test_the_cache(monkeypatch, tmp_path):
    from crisis.bpf import cache

    monkeypatch.setattr(cache, "CACHE", str(tmp_path))
    both = [TYPED, RAW]
    assert needs.compiled(both, OBJECTS).note == "2 of 2"
    found = needs.compiled(both, {"x.raw": None})
    assert found.state == NO and found.note.startswith("1 of 2") and "crisis-warm" in found.note
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert needs.compiled(both, {}).state == UNKNOWN
