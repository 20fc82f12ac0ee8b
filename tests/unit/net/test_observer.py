# SPDX-License-Identifier: GPL-2.0-or-later
"""Where pyroute2 is, or what to install."""

import importlib.util
import types

import pytest

from crisis.errors import Unavailable
from crisis.net import observer


def test_pyroute2_is_found_without_an_import(monkeypatch):
    found = types.SimpleNamespace(submodule_search_locations=["/x/pyroute2"])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: found)
    assert observer.find_pyroute2() == "/x/pyroute2"


def test_pyroute2_is_missing(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(Unavailable, match="Install the package python3-pyroute2"):
        observer.find_pyroute2()
