# SPDX-License-Identifier: GPL-2.0-or-later
"""What the commands declare of their BPF programs."""

import os
import re

import pytest

from crisis.bpf import program
from crisis.sched import programs
from helpers import ROOT, load


def has_programs(command):
    """Whether the command has SOURCES of BPF programs."""
    return any(
        hasattr(source, "points") for source in getattr(load(command), "SOURCES", {}).values()
    )


COMMANDS = [name for name in sorted(os.listdir(os.path.join(ROOT, "bin"))) if has_programs(name)]


def sources():
    return [source for command in COMMANDS for source in load(command).SOURCES.values()]


def test_the_commands_that_trace_are_found():
    assert {"cachestat", "memleak", "runqlat"} <= set(COMMANDS) and "psi" not in COMMANDS


@pytest.mark.parametrize("source", sources(), ids=lambda source: source.name)
def test_every_function_is_attached_by_some_kind(source):
    """Of a text's functions those under an #ifdef may belong to another variant; every name
    declared is a function.
    """
    declared = [candidate for point in source.points for candidate in point if candidate != "none"]
    for text in declared + list(source.probes):
        kind, function = re.match(r"(\w+).*:(\w+)$", text).groups()
        assert kind in program.KINDS
        assert re.search(rf"^int {function}\(", source.text, re.M), text


def test_a_program_for_processes_declares_its_probes():
    memleak = load("memleak")
    assert [memleak.SOURCES[name].probes for name in ("session", "multi", "perf", "kernel")] == [
        ("uprobe_session:on_call", "uprobe_multi:on_entry"),
        ("uprobe_multi:on_entry", "uretprobe_multi:on_return"),
        ("uprobe:on_entry", "uretprobe:on_return"),
        (),
    ]


@pytest.mark.parametrize(
    "machine, safe",
    [("x86_64", True), ("aarch64", True), ("s390x", True), ("riscv64", False), ("ppc64le", False)],
)
def test_task_storage_under_the_run_queues_lock(machine, safe):
    """kmalloc_nolock() needs an instruction like cmpxchg16b; bpf_mem_alloc serves everywhere."""
    members = programs.storage_requirements(machine)
    assert members[0] == "bpf_local_storage_map.selem_ma"
    assert set(members[1:]) == (
        {"bpf_local_storage_map.use_kmalloc_nolock", "bpf_local_storage.mem_charge"}
        if safe
        else set()
    )
