# SPDX-License-Identifier: GPL-2.0-or-later
import os
import shutil
import signal
import sys
import tempfile
import time

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, "lib"))
sys.path.insert(0, os.path.join(ROOT, "tests"))
START = time.monotonic()


def pytest_addoption(parser):
    parser.addoption(
        "--seconds",
        type=float,
        help="how long to go on, shared among the files; what is left out is reported as skipped",
    )


def pytest_configure(config):
    # A shell without job control starts background jobs with SIGINT ignored, and the commands leave
    # it so.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    config.addinivalue_line(
        "markers",
        "guest: short enough for every run in an emulated guest; the others are for "
        "make check-vm by hand",
    )
    if os.path.isdir("/run/crisis-vm"):
        config.pluginmanager.register(_AtOnce(config))


@pytest.hookimpl(trylast=True)
def pytest_collection_finish(session):
    seconds, files = session.config.getoption("--seconds"), []
    for item in session.items:
        if item.fspath not in files:  # pytest 6 of Debian 11 has no item.path
            files.append(item.fspath)
        item.number = len(files)
    for item in session.items:
        # Time that one file leaves over is the next one's.
        item.until = START + seconds * item.number / len(files) if seconds else None


def pytest_runtest_setup(item):
    if item.until and time.monotonic() > item.until:
        pytest.skip(
            f"this file's share of the {item.config.getoption('--seconds'):g} seconds is over"
        )


class _AtOnce:
    """In a guest of tests/vm, whose time may be up before the summary, a failure is shown when it
    happens.
    """

    def __init__(self, config):
        self.config = config

    def pytest_runtest_logreport(self, report):
        if report.failed:
            self.config.pluginmanager.get_plugin("terminalreporter").write_line(
                "\n" + report.longreprtext
            )


@pytest.fixture(scope="module")
def disk():
    """A directory on a file system whose pages can be evicted."""
    import pagefiles

    with pagefiles.disk() as directory:
        yield directory


@pytest.fixture()
def place(disk):
    """A new directory there, open to everybody."""
    directory = tempfile.mkdtemp(dir=disk)
    os.chmod(directory, 0o755)
    yield directory
    shutil.rmtree(directory, ignore_errors=True)
