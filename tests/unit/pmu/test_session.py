# SPDX-License-Identifier: GPL-2.0-or-later
"""A session's arguments."""

import pytest

from crisis.errors import Usage
from crisis.pmu import session


def test_cpu_list():
    assert session.cpu_list("0,2-3") == [0, 2, 3] and session.cpu_list(None) is None
    with pytest.raises(Usage):
        session.cpu_list("a")
