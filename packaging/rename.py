# SPDX-License-Identifier: GPL-2.0-or-later
"""Rename the commands in a man page or a completion script, for make install.

usage: rename.py PREFIX SUFFIX FILE NAME...

Prints FILE, in which each command NAME is called PREFIX NAME SUFFIX.  A name is replaced only where
it stands for the command: other tools have the same names, and some are also words (psi=1).
"""

import re
import sys


def page(text, names, renamed):
    """A man page: its title, names in bold, references such as runqlat(8), and command lines.

    A line of an example begins with a blank or a prompt, and ends at its explanation.
    """
    name = rf"(?P<name>{names})"
    for pattern in (
        rf"^(?P<before>\.TH ){name}(?= )",
        rf"^(?P<before>\.SH NAME\n){name}(?= \\- )",
        rf"^(?P<before>\.(?:B|BR|RB) \"?){name}(?=[\" ]|$)(?! \((?![178]\)))",
        rf"(?P<before>\\fB){name}(?=\\fR| )(?!\\fR\((?![178]\)))",
    ):
        flags = re.M | (re.I if "TH" in pattern else 0)
        text = re.sub(pattern, renamed, text, flags=flags)
    first = rf"(?:clush|sudo|crisis\\?-[a-z]+|{names})"
    command = rf"^(?:[#$] | {{1,9}}){first}(?: \S+)*(?=  |$)"

    def line(match):
        return re.sub(rf"(?P<before> ){name}(?=[ ;]|$)", renamed, match.group())

    examples = r"^\.SH (?:COMMENTS|EXAMPLES)\n.*?(?=^\.SH |\Z)|^\.EX\n.*?^\.EE"
    return re.sub(
        examples,
        lambda match: re.sub(command, line, match.group(), flags=re.M),
        text,
        flags=re.M | re.S,
    )


def completion(text, names, renamed):
    """A script for bash (complete ... NAME), zsh (compdef NAME) or fish (complete -c NAME)."""
    place = r"(?P<before>^#compdef |^ *compdef .* |^complete -c |^complete .* )"
    return re.sub(rf"{place}(?P<name>{names})(?=$| -)", renamed, text, flags=re.M)


def main(prefix, suffix, path, *names):
    def renamed(match):
        word = f"{prefix}{match['name']}{suffix}"
        return match["before"] + (word.upper() if match["name"].isupper() else word)

    with open(path, encoding="utf-8") as f:
        text = f.read()
    change = page if re.search(r"\.[178]$", path) else completion
    sys.stdout.buffer.write(change(text, "|".join(names), renamed).encode())


if __name__ == "__main__":
    main(*sys.argv[1:])
