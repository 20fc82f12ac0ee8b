# SPDX-License-Identifier: GPL-2.0-or-later
"""The example of HACKING.md works as it stands.  Needs root."""

import json
import os
import re
import shutil
import subprocess

from helpers import ROOT, attached, stop


def test_the_example_of_hacking(tmp_path):
    with open(os.path.join(ROOT, "HACKING.md")) as f:
        blocks = dict(re.findall(r"^```(python|c)\n(.*?)^```$", f.read(), re.M | re.S))
    shutil.copytree(os.path.join(ROOT, "lib"), tmp_path / "lib")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/hello").write_text(blocks["python"])
    (tmp_path / "bin/hello").chmod(0o755)
    (tmp_path / "lib/crisis/progs/hello.bpf.c").write_text(blocks["c"])
    hello = [str(tmp_path / "bin/hello"), "--no-cache"]
    child = attached("hello", "-j", command=hello)
    shutil.copy("/usr/bin/true", tmp_path / "my-true")
    for _ in range(20):
        subprocess.check_call([str(tmp_path / "my-true")])
    (counts,) = [json.loads(line) for line in stop(child).splitlines() if '"my-true"' in line]
    assert counts["count"] == 20
