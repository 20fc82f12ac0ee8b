# SPDX-License-Identifier: GPL-2.0-or-later
"""Entries of the program cache, and what they are made from.  The attacks are in tests/live."""

import os

import pytest

from crisis import bpf
from crisis.bpf import cache, object


def source(**members):
    return bpf.Source(**{"name": "test.x", "points": (("raw_tp/a:f",),), "text": "one", **members})


def packed(name):
    lists = {key: [] for key in ("points", "probes", "maps", "functions", "counters")}
    dicts = {key: {} for key in ("layouts", "ids", "constants")}
    return object.pack({"name": name, "unusable": None, "compiler": "", **lists, **dicts}, b"")


@pytest.fixture
def directory(tmp_path):
    tmp_path.chmod(0o700)
    return str(tmp_path / "cache")


def test_an_entry_is_found_again(directory):
    assert cache.cached(source(), path=directory) is None
    assert cache.keep(source(), packed("test.x"), path=directory) is None
    assert cache.cached(source(), path=directory).name == "test.x"
    (name,) = os.listdir(directory)
    assert name == cache.key(source()) and name.startswith("test.x-")
    assert os.stat(os.path.join(directory, name)).st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "other",
    [
        {"text": "two"},
        {"params": ("pid",)},
        {"counters": ("lost",)},
        {"defines": {"BY": 1}},
        {"points": (("raw_tp/b:f",),)},
        {"requires": ("request.tag",)},
        {"probes": ("uprobe:g",)},
    ],
    ids=lambda other: next(iter(other)),
)
def test_another_source_has_another_entry(directory, other):
    cache.keep(source(), packed("first"), path=directory)
    assert cache.key(source(**other)) != cache.key(source())
    assert cache.cached(source(**other), path=directory) is None
    cache.keep(source(**other), packed("second"), path=directory)
    assert cache.cached(source(), path=directory).name == "first"
    assert cache.cached(source(**other), path=directory).name == "second"


def test_the_source_of_types_and_the_kernel_have_their_own(directory, monkeypatch):
    cache.keep(source(), packed("auto"), path=directory)
    assert cache.cached(source(), headers="kernel", path=directory) is None
    uname = list(os.uname())
    uname[3] += " another build"
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(uname))
    assert cache.cached(source(), path=directory) is None


def test_names_that_collide(directory):
    """The name has a checksum of 32 bits; the entry repeats all that it was made from."""
    cache.keep(source(), packed("test.x"), path=directory)
    cache.keep(source(text="two"), packed("test.x"), path=directory)
    one, two = (os.path.join(directory, cache.key(source(text=text))) for text in ("one", "two"))
    os.rename(two, one)
    warnings = []
    assert cache.cached(source(), warnings.append, path=directory) is None
    assert len(warnings) == 1 and "it was not made from this source" in warnings[0]


def test_a_failed_rename_leaves_nothing(directory):
    cache.keep(source(), packed("test.x"), path=directory)
    os.unlink(os.path.join(directory, cache.key(source())))
    os.mkdir(os.path.join(directory, cache.key(source())))
    warning = cache.keep(source(), packed("test.x"), path=directory)
    assert warning.startswith("program not cached: ")
    assert os.listdir(directory) == [cache.key(source())]


def test_what_no_boot_can_use_is_removed(directory, tmp_path, monkeypatch):
    """Entries of another release of the suite, of a replaced build, and of a removed kernel."""
    (tmp_path / "root/lib/modules/6.12.1").mkdir(parents=True)

    def on(kernel, build, suite="2"):
        """The entry that a run of this release of the suite on this kernel has left."""
        monkeypatch.setattr(cache.kernel, "running", lambda: (kernel, "#1 SMP", "x86_64", build))
        monkeypatch.setattr(cache, "__version__", suite)
        cache.keep(source(), packed("test.x"), path=directory)
        return cache.key(source())

    assert cache.prune(directory, str(tmp_path / "root")) == 0  # there is no cache yet
    on("6.1.0-57-amd64", "aa", suite="1")
    on("6.1.0-57-amd64", "bb")
    on("6.2.0", "cc")
    other = on("6.12.1", "dd")
    own = on("6.1.0-57-amd64", "aa")
    tmp_path.joinpath("cache/notes").write_text("not an entry: 12:34")
    assert cache.prune(directory, str(tmp_path / "root")) == 3
    assert sorted(os.listdir(directory)) == sorted(["notes", other, own])
    assert cache.cached(source(), path=directory) is not None
