# SPDX-License-Identifier: GPL-2.0-or-later
"""Lists of CPUs and of nodes."""

import pytest

from crisis.kernel import sysfs


def test_cpu_lists():
    assert sysfs.cpu_list("0-2,5,8-9\n") == [0, 1, 2, 5, 8, 9] and sysfs.cpu_list("\n") == []
    with pytest.raises(ValueError):
        sysfs.cpu_list("1,-3")
    assert sysfs.cpu_ranges([9, 0, 1, 2, 5, 8]) == "0-2,5,8-9" and sysfs.cpu_ranges([]) == ""
