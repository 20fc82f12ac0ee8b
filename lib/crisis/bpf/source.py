# SPDX-License-Identifier: GPL-2.0-or-later
"""What a command gives to be compiled: the text of a program, and what it needs of the kernel."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

__all__ = ["Source", "enumeration", "program_text", "PROGRAMS"]

# The C of all commands.
PROGRAMS = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "progs")


def enumeration(prefix: str, names: Iterable[str]) -> dict[str, int]:
    """The macros {PREFIX_NAME: index} of a sequence of names, for `defines` of Source."""
    return {f"{prefix}_{name.upper()}": index for index, name in enumerate(names)}


def program_text(name: str, directory: str | None = None) -> str:
    """The text of a C file with each file that it includes by #include "NAME" in its place, once.

    bcc rewrites what uses its maps only in the main file, not in included ones.  #line directives
    let the compiler's messages name the files.
    directory: where the files are, PROGRAMS if None.  Raises OSError.
    """
    directory = directory or PROGRAMS
    with open(os.path.join(directory, name), encoding="utf-8") as f:
        return _included(name, f.read(), directory, {name})


def _included(name: str, text: str, directory: str, done: set[str]) -> str:
    """The text of `name` with what it includes; done: names of files that have been included."""
    own, *others = ("\n" + text).split('\n#include "')
    parts, line = [f'#line 1 "{name}"', own], own.count("\n")
    for piece in others:
        included, _, rest = piece.partition('"')
        if included not in done:
            done.add(included)
            with open(os.path.join(directory, included), encoding="utf-8") as f:
                parts += ["\n", _included(included, f.read(), directory, done)]
        parts += [f'\n#line {line + 2} "{name}"', rest]
        line += 1 + rest.count("\n")
    return "".join(parts)


class Source:
    """What a command gives to be compiled.

    name: "command.variant", the cache entry's name and what -v calls it.
    file: the program's file in PROGRAMS, in bcc's dialect of C.  It is read when its text is
        needed.
    text: the C text itself in place of a file.
    points: one tuple for each place to attach to, of candidates in order of preference, each
        "kind/target:function"; `Program.attach` lists the kinds.  A last candidate "none" lets the
        program do without the place.
    params: names that the text uses as PARAM(name).
    counters: names that the text uses as COUNT(name).
    defines: {macro: value} of this variant.
    has: {macro: ("struct.member", first release such as "5.14")}: the macro is defined where the
        kernel has the member; the release decides only where there is no BTF.
    requires: "struct.member" strings, or names of types, enumeration constants or functions (or
        tuples of which any one will do), that the kernel must have.
    constants: enumeration constants whose values the command wants; "PREFIX*" for all that begin
        so.
    arguments: "tracepoint.argument" strings; the text reads one with ARG(ctx, tracepoint, argument)
        wherever the running kernel's tracepoint has it.  The kernel must have BTF, and all of them
        but those that end in "?": where it lacks one, the macro ARG_tracepoint_argument is not
        defined.
    kfuncs: kernel functions that the text declares by KFUNC(result type, name, argument types...);
        and calls.  The kernel must have all of them but those that end in "?": where it lacks one,
        the macro KFUNC_name is not defined.
    fields: "category:tracepoint.field" strings; the parameter tracepoint_field is where that field
        is in the tracepoint's record, for read_field() of field.bpf.h.  The kernel must have all of
        them but those that end in "?", and those of tracepoints that do: the parameter is 0 for one
        that it lacks.
    probes: "kind:function" strings, of functions that the command itself attaches when it runs,
        with Program.attach_uprobe and the like; `Program.attach` loads them.
    """

    def __init__(
        self,
        name: str,
        file: str | None = None,
        points: Sequence[Sequence[str]] = (),
        params: Iterable[str] = (),
        counters: Iterable[str] = (),
        defines: Mapping[str, Any] | None = None,
        has: Mapping[str, tuple[str, str]] | None = None,
        requires: Sequence[str | Sequence[str]] = (),
        constants: Iterable[str] = (),
        arguments: Iterable[str] = (),
        kfuncs: Iterable[str] = (),
        probes: Iterable[str] = (),
        text: str | None = None,
        fields: Iterable[str] = (),
    ) -> None:
        self.name, self.file, self._text, self.points = name, file, text, points
        self.fields = {
            text.replace("?", "").partition(":")[2].replace(".", "_"): text for text in fields
        }
        self.params, self.counters = (*params, *self.fields), tuple(counters)
        self.defines, self.has = defines or {}, has or {}
        self.requires, self.constants = requires, tuple(constants)
        self.arguments, self.kfuncs, self.probes = tuple(arguments), tuple(kfuncs), tuple(probes)

    @property
    def text(self) -> str:
        """The C text, with that of the files that it includes."""
        if self._text is not None:
            return _included(self.name, self._text, PROGRAMS, set())
        assert self.file is not None, self.name
        return program_text(self.file)

    def request(self) -> dict[str, Any]:
        """The whole of it as a JSON-able dict, in a fixed order."""
        return {
            "name": self.name,
            "text": self.text,
            "points": self.points,
            "params": self.params,
            "counters": self.counters,
            "defines": self.defines,
            "has": self.has,
            "requires": self.requires,
            "constants": self.constants,
            "arguments": self.arguments,
            "kfuncs": self.kfuncs,
            "probes": self.probes,
        }
