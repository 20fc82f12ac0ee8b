# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether something works here, does not, or is not known."""

from __future__ import annotations

import os

from ..errors import Error, NotPermitted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["NO", "ORDER", "UNKNOWN", "WORKS", "Answer", "Unknown", "answer"]

WORKS, UNKNOWN, NO = "works", "unknown", "no"
ORDER = (WORKS, UNKNOWN, NO)


class Unknown(Error):
    """A check cannot know without changing something."""


class Answer:
    """state: WORKS, UNKNOWN or NO.  note: what was found; else why, and the remedy."""

    __slots__ = ("state", "note")

    def __init__(self, state: str, note: str = "") -> None:
        self.state, self.note = state, note


def answer(check: Callable[[], str | None]) -> Answer:
    """The Answer of a check, which returns a note, or raises what a command would.

    Unknown is what the kernel does not permit this process: with more privileges it may work.
    """
    try:
        return Answer(WORKS, check() or "")
    except NotPermitted as exc:
        return Answer(UNKNOWN, _reason(exc))
    except Unknown as exc:
        return Answer(UNKNOWN, str(exc))
    except PermissionError as exc:
        return Answer(UNKNOWN, f"{_text(exc)}. Run as root")
    except Error as exc:
        return Answer(NO, _reason(exc))
    except OSError as exc:
        return Answer(NO, _text(exc))


def _reason(exc: Error) -> str:
    """The text without "cannot X: ", which the name of the source stands for."""
    start, _, why = str(exc).partition(": ")
    return why if why and start.startswith("cannot ") else str(exc)


def _text(exc: OSError) -> str:
    path = exc.filename
    return f"{os.fsdecode(path)}: {exc.strerror}" if path else str(exc.strerror)
