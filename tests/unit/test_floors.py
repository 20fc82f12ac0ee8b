# SPDX-License-Identifier: GPL-2.0-or-later
"""The floors of lib/crisis: a package imports packages of its own floor and of lower ones only."""

import ast
import os

import pytest

from helpers import ROOT

LIB = os.path.join(ROOT, "lib", "crisis")
# From top to bottom; a module that is in none of the packages is named by itself.
FLOORS = (
    {"suite"},
    {"pmu"},
    {"pmu", "use"},
    {"memory", "cpu", "alloc", "sched", "fleet"},
    {"bpf", "perf", "symbols", "net"},
    {"cli", "kernel", "child"},
    {"arguments", "table", "hist", "plot", "errors", "measures", "metrics"},
)
PACKAGES = {
    name for name in os.listdir(LIB) if os.path.isfile(os.path.join(LIB, name, "__init__.py"))
}
FLOOR_OF = {name: number for number, names in enumerate(FLOORS) for name in names}


def imported(path):
    """{name below crisis of what a module imports: line}, also by imports inside functions."""
    with open(path) as f:
        tree = ast.parse(f.read())
    here = os.path.relpath(path, LIB).split(os.sep)[:-1]
    found = {}
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom):
            continue
        module = (node.module or "").split(".") if node.module else []
        if node.level:
            module = here[: len(here) - node.level + 1] + module
        elif module[:1] == ["crisis"]:
            module = module[1:]
        else:
            continue
        for name in [module[0]] if module else [alias.name for alias in node.names]:
            found.setdefault(name, node.lineno)
    return found


def modules(name):
    directory = os.path.join(LIB, name)
    return sorted(
        os.path.join(directory, file) for file in os.listdir(directory) if file.endswith(".py")
    )


def test_every_package_has_a_floor():
    assert PACKAGES - set(FLOOR_OF) == set()


@pytest.mark.parametrize("package", sorted(PACKAGES))
def test_no_import_goes_up(package):
    upwards = []
    for path in modules(package):
        for name, line in imported(path).items():
            if name in FLOOR_OF and FLOOR_OF[name] < FLOOR_OF[package]:
                upwards.append(f"{os.path.relpath(path, ROOT)}:{line} imports {name}")
            elif name not in FLOOR_OF and name != "__version__":
                upwards.append(
                    f"{os.path.relpath(path, ROOT)}:{line} imports {name}, which has no floor"
                )
    assert upwards == []


def test_an_import_that_goes_up_is_noticed(tmp_path, monkeypatch):
    (tmp_path / "kernel").mkdir()
    path = tmp_path / "kernel" / "x.py"
    path.write_text(
        "from ..memory.walk import Walk\ndef f():\n    from .. import bpf, cli\n    from . "
        "import y\n"
    )
    monkeypatch.setattr("test_floors.LIB", str(tmp_path))
    assert imported(str(path)) == {"memory": 1, "bpf": 3, "cli": 3, "kernel": 4}
