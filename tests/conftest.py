# SPDX-License-Identifier: GPL-2.0-or-later
import os
import sys
import time

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, "lib"))
sys.path.insert(0, os.path.join(ROOT, "tests"))
START = time.monotonic()


def pytest_addoption(parser):
    parser.addoption("--seconds", type=float, help="begin no test later than this; the files take turns, and what is "
                                                   "left out is reported as skipped")


def pytest_configure(config):
    config.addinivalue_line("markers", "guest: short enough for every run in an emulated guest; the others are for "
                                       "make check-vm by hand")


def pytest_collection_modifyitems(config, items):
    if config.getoption("--seconds"):
        turn = {}
        for item in items:
            item.turn = turn[item.path] = turn.get(item.path, 0) + 1
        items.sort(key=lambda item: item.turn)


def pytest_runtest_setup(item):
    seconds = item.config.getoption("--seconds")
    if seconds and time.monotonic() - START > seconds:
        pytest.skip("the %g seconds of --seconds are over" % seconds)
