# SPDX-License-Identifier: GPL-2.0-or-later
"""Machines that are not here, as trees of files."""

import pytest

from helpers import fixture_tree


@pytest.fixture
def hybrid(tmp_path):
    return fixture_tree("hybrid", tmp_path)


@pytest.fixture
def zen4(tmp_path):
    return fixture_tree("zen4", tmp_path)


@pytest.fixture
def graviton(tmp_path):
    return fixture_tree("graviton", tmp_path)


@pytest.fixture
def arm(tmp_path):
    return fixture_tree("arm-server", tmp_path)


@pytest.fixture
def pmu_tree(tmp_path):
    """A function of the name of a PMU tree that returns its path."""
    return lambda name: fixture_tree("pmu-" + name, tmp_path / name)
