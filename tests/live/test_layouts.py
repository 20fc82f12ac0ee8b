# SPDX-License-Identifier: GPL-2.0-or-later
"""The records that stand in for the kernel's in tests/seams.py are those of the programs.

tests/fixtures/layouts.json has, for each command, the structs and the types of the maps that the
compiled programs have.  After a change: python3 tests/live/test_layouts.py >
tests/fixtures/layouts.json
"""

import json
import os
import sys

if __name__ == "__main__":
    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    sys.path[:0] = [here, os.path.join(os.path.dirname(here), "lib")]

from crisis.bpf import cache
from helpers import ROOT, load


def layouts():
    """{command: {"structs": {name: layout}, "maps": {name: "KEY VALUE"}}} of all variants that this
    kernel can have.
    """
    found = {}
    for command in sorted(os.listdir(os.path.join(ROOT, "bin"))):
        for source in getattr(load(command), "SOURCES", {}).values():
            obj = cache.build(source)
            entry = found.setdefault(command, {"structs": {}, "maps": {}})
            entry["structs"].update(obj.layouts)
            entry["maps"].update(
                (name, " ".join(types)) for name, _, _, _, _, _, *types in obj.maps
            )
    return found


def test_layouts():
    with open(os.path.join(ROOT, "tests/fixtures/layouts.json")) as f:
        expected = json.load(f)
    found = layouts()
    assert sorted(found) == sorted(expected)
    for command, entry in found.items():
        for what in "structs", "maps":
            assert {name: entry[what][name] for name in entry[what]} == {
                name: expected[command][what].get(name) for name in entry[what]
            }, command


if __name__ == "__main__":
    json.dump(layouts(), sys.stdout, indent=1, sort_keys=True)
    print()
