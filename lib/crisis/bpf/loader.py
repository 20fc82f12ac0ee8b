# SPDX-License-Identifier: GPL-2.0-or-later
"""From a command's sources and options to the program that runs."""

from __future__ import annotations

from .. import cli
from ..errors import Error, NotPermitted, Unavailable
from . import cache
from .program import Program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping
    from typing import Any

    from .object import Object
    from .program import Sizes
    from .source import Source

__all__ = ["load", "first", "field_places"]


def load(
    sources: Mapping[str, Source],
    args: Any,
    params: Mapping[str, Any] | None = None,
    sizes: Sizes | None = None,
    without: Collection[str] = (),
) -> Program:
    """The Program of the first of a command's sources that works on this kernel.

    sources: {name: Source} in order of preference; args.source, where the command has --source,
        chooses one of them.
    args: the parsed arguments.  Where the programs filter tasks, args.pid, args.tid and
        args.cgroup are what they filter by, as far as the command has these options.
    params: {name: value} of the other parameters, as for Program; those that are missing are 0.
    sizes: of maps, as for Program.
    without: functions that these options do not need, as for Program.attach.
    Raises Error for a filter that fits no task, NotPermitted, and Unavailable with the last reason
    when no source works.
    """

    def build(source: Source) -> Object:
        return cache.build(source, not args.no_cache, cli.note)

    name = getattr(args, "source", None)
    chosen = [sources[name]] if name else list(sources.values())
    values: dict[str, Any] = {name: 0 for source in chosen for name in source.params}
    if "tgid" in values:
        from . import task

        values.update(task.filters(args, build))
    values.update(params or {})
    return first(chosen, build, values, sizes, cli.verbose, without)


def first(
    sources: Iterable[Source],
    build: Callable[[Source], Object],
    params: Mapping[str, Any] | Callable[[Object], Mapping[str, Any]] | None = None,
    maps: Sizes | None = None,
    verbose: Callable[[str], object] = lambda text: None,
    without: Collection[str] = (),
) -> Program:
    """The Program of the first source that compiles, loads and attaches on this kernel.

    sources: Sources in order of preference; build: source -> Object.
    params: as for Program, or a function from the Object to them.
    without: as for Program.attach.
    verbose: called with a line for each source or candidate that was not taken, and for what was.
    Raises NotPermitted at once, Unavailable with the last reason when none is left.
    """
    last: Error | None = None
    for source in sources:
        program = None
        try:
            obj = build(source)
            values = params(obj) if callable(params) else params
            if source.fields:
                values = dict(values or {}, **field_places(source))
            program = Program(obj, values, maps)
            program.attach(without)
        except NotPermitted:
            raise
        except (Unavailable, Error) as exc:
            if program is not None:
                program.close()
            verbose(f"not {source.name}: {exc}")
            # A failure is a better explanation than something that this kernel lacks.
            if last is None or not isinstance(exc, Unavailable) or isinstance(last, Unavailable):
                last = exc
            continue
        for line in program.refused:
            verbose(f"{source.name}: not {line}")
        verbose(f"{source.name}: attached to {', '.join(program.taken)}")
        return program
    assert last is not None, "no source"
    raise last


def field_places(source: Source) -> dict[str, int]:
    """{parameter: offset << 8 | size} of each of a Source's `fields`; 0 without it.

    They come from the format files of tracefs.
    Raises Unavailable for one that the kernel must have and lacks.
    """
    from ..perf import tracefs

    found = {}
    for param, text in source.fields.items():
        tracepoint, _, field = text.partition(".")
        category, _, name = tracepoint.rstrip("?").partition(":")
        try:
            fields = tracefs.tracepoint_fields(category, name)[0]
        except Unavailable:
            if not tracepoint.endswith("?"):
                raise
            found[param] = 0
            continue
        offset, size = fields.get(field.rstrip("?"), (0, 0))
        if not size and not field.endswith("?"):
            raise Unavailable(f"this kernel's tracepoint {category}:{name} has no field {field}")
        found[param] = offset << 8 | size
    return found
