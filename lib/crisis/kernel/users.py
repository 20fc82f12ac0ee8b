# SPDX-License-Identifier: GPL-2.0-or-later
"""Names and numbers of users: passwd(5), and what NSS adds to it."""

from __future__ import annotations

from ..errors import Usage

__all__ = ["user_id", "user_name"]


def user_id(text: str) -> int:
    """The ID of a user whose name or ID an argument has.  Raises Usage."""
    if text.isascii() and text.isdigit():
        return int(text[:20])
    import pwd

    try:
        return pwd.getpwnam(text).pw_uid
    except (KeyError, ValueError):
        raise Usage(f"no such user: {text[:80]}") from None


def user_name(uid: int) -> str:
    """As ps(1) shows it: the number of a user without a name."""
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
