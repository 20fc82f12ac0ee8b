# SPDX-License-Identifier: GPL-2.0-or-later
import os
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, "lib"))
sys.path.insert(0, os.path.join(ROOT, "tests"))


def pytest_configure(config):
    config.addinivalue_line("markers", "guest: short enough for every run in an emulated guest; the others are for "
                                       "make check-vm by hand")
