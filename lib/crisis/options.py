# SPDX-License-Identifier: GPL-2.0-or-later
"""The arguments of an ordinary call, without argparse, whose import and work are a quarter of a command's start.

Quick takes the declarations that argparse.ArgumentParser takes.  Where it can
tell, its answer is argparse's; whatever is unusual, wrong, or a question (such
as --help), it leaves to argparse, which the command then asks.
"""

__all__ = ["Quick"]

_KNOWN = {"action", "nargs", "const", "default", "type", "choices", "metavar", "help", "dest", "required"}
_ACTIONS = {"store", "store_true", "store_const", "append"}


class Arguments:
    """What was parsed: an attribute for each argument, as argparse's Namespace has them."""


class _Argument:
    def __init__(self, names, options):
        self.action, self.nargs = options.get("action", "store"), options.get("nargs")
        self.const, self.type, self.choices = options.get("const"), options.get("type"), options.get("choices")
        self.required = options.get("required", False)
        self.default, self.group = options.get("default"), None
        if self.action == "store_true":
            self.const, self.default = True, options.get("default", False)
        long = [name for name in names if name.startswith("--")]
        self.dest = options.get("dest") or (long or names)[0].lstrip("-").replace("-", "_")
        self.known = self.action in _ACTIONS and options.keys() <= _KNOWN and self.nargs in (None, "?", "*", "+")

    def convert(self, text):
        """The value of a word.  Raises whatever the type raises, or ValueError for one that is no choice."""
        value = self.type(text) if self.type else text
        if self.choices is not None and value not in self.choices:
            raise ValueError(text)
        return value

    def absent(self):
        value = self.default
        return self.type(value) if self.type and isinstance(value, str) else value


class _Group:
    """Arguments of which one at most may be given."""

    def __init__(self, quick, required):
        self._quick, self.required = quick, required

    def add_argument(self, *names, **options):
        self._quick.add_argument(*names, **options).group = self


class Quick:
    """Declarations as for argparse.ArgumentParser, and parse()."""

    def __init__(self) -> None:
        self._options, self._positionals, self._all, self._groups = {}, [], [], []

    def add_argument(self, *names, **options):
        argument = _Argument(names, options)
        self._all.append(argument)
        if names[0].startswith("-"):
            self._options.update((name, argument) for name in names)
        else:
            self._positionals.append(argument)
        return argument

    def add_mutually_exclusive_group(self, required=False):
        self._groups.append(_Group(self, required))
        return self._groups[-1]

    def parse(self, words):
        """The Arguments of the words, as argparse would have them; None where it is to be asked."""
        found = Arguments()
        try:
            given = self._read(words, found)
        except Exception:               # of a type: argparse makes the message
            return None
        groups = [argument.group for argument in given if argument.group]
        if len(set(groups)) != len(groups) or any(g.required and g not in groups for g in self._groups) or \
                any(argument.required and argument not in given for argument in self._options.values()):
            return None
        return found

    def _read(self, words, found):
        """Fill `found`; the set of arguments that were given.  Raises ValueError where this is not for us."""
        values = found.__dict__
        for argument in self._all:
            if argument.known:
                values.setdefault(argument.dest, argument.absent())
        given, rest, words = set(), [], list(reversed(words))
        while words:
            word = words.pop()
            if word == "-" or not word.startswith("-"):
                rest.append(word)
                continue
            name, equals, text = word.partition("=") if word.startswith("--") else (word, "", "")
            argument = self._options[name]
            takes = argument.action in ("store", "append")
            if not argument.known or argument.nargs in ("*", "+") or equals and not takes:
                raise ValueError(word)
            given.add(argument)
            if not takes:
                values[argument.dest] = argument.const
                continue
            if not equals:
                if words and (words[-1] == "-" or not words[-1].startswith("-")):
                    text = words.pop()
                elif argument.nargs == "?":
                    text = None
                else:
                    raise ValueError(word)
            value = argument.const if text is None else argument.convert(text)
            if argument.action == "append":
                value = (values[argument.dest] or []) + [value]
            values[argument.dest] = value
        self._place(rest, values)
        return given

    def _place(self, words, values):
        """Give the words to the positionals in their order."""
        for number, argument in enumerate(self._positionals):
            if not argument.known or argument.group:
                raise ValueError(argument.dest)
            if argument.nargs in ("*", "+"):
                if number + 1 != len(self._positionals) or argument.nargs == "+" and not words:
                    raise ValueError(argument.dest)
                if words or argument.default is None:
                    values[argument.dest] = [argument.convert(word) for word in words]
                words = []
            elif words:
                values[argument.dest] = argument.convert(words[0])
                words = words[1:]
            elif argument.nargs is None:
                raise ValueError(argument.dest)
        if words:
            raise ValueError(words[0])
