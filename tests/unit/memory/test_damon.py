# SPDX-License-Identifier: GPL-2.0-or-later
"""DAMON, in a tree of files."""

import os

import pytest

from crisis.errors import Error, Unavailable
from crisis.memory import PAGE, damon


def test_regions():
    page = [(at * PAGE, (at + 1) * PAGE) for at in range(10)]
    assert damon.regions_of([(0, 10 * PAGE)], 100) == page
    assert damon.regions_of([(0, 2 * PAGE), (4 * PAGE, 5 * PAGE)], 100) == page[:2] + [page[4]]
    big = damon.regions_of([(0, 1000 * PAGE), (1 << 40, (1 << 40) + 1000 * PAGE)], 100)
    assert len(big) <= 101 and sum(end - start for start, end in big) == 2000 * PAGE
    assert all(a[1] <= b[0] for a, b in zip(big, big[1:]))
    scattered = damon.regions_of(
        [(at * 10 * PAGE, (at * 10 + 1) * PAGE) for at in range(1000)], 100
    )
    assert len(scattered) <= 200 and scattered[0][0] == 0 and scattered[-1][1] == 9991 * PAGE
    assert damon.standard_error(page, 3 * PAGE) == 0
    two = [(at, at + 2 * PAGE) for at in range(0, 200 * PAGE, 2 * PAGE)]
    assert damon.standard_error(two, 100 * PAGE) == pytest.approx(10 * PAGE)
    assert damon.standard_error(two, 0) == damon.standard_error([], 0) == 0


def damon_tree(root, used="0", operations="vaddr\nfvaddr\npaddr\n"):
    top = root / "sys/kernel/mm/damon/admin/kdamonds"
    files = ["nr_kdamonds", "0/state", "0/contexts/nr_contexts"]
    context = "0/contexts/0/"
    files += [
        context + name
        for name in (
            "operations",
            "targets/nr_targets",
            "targets/0/pid_target",
            "targets/0/regions/nr_regions",
            "schemes/nr_schemes",
        )
    ]
    files += [
        context + "monitoring_attrs/intervals/" + name
        for name in ("sample_us", "aggr_us", "update_us")
    ]
    files += [
        context + f"targets/0/regions/{i}/{end}" for i in range(3) for end in ("start", "end")
    ]
    for scheme in "01":
        base = context + f"schemes/{scheme}/"
        files += [base + "action", base + "stats/sz_tried"]
        files += [
            base + f"access_pattern/{name}/{end}"
            for name in ("sz", "nr_accesses", "age")
            for end in ("min", "max")
        ]
    for name in files:
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text("")
    (top / "nr_kdamonds").write_text(used + "\n")
    (top / context / "avail_operations").write_text(operations)
    (top / context / "monitoring_attrs/nr_regions").mkdir()
    (top / context / "monitoring_attrs/nr_regions/min").write_text("10\n")
    (top / context / "monitoring_attrs/nr_regions/max").write_text("1000\n")
    return top


def test_damon_is_set_up_as_documented_and_left_as_found(tmp_path, monkeypatch):
    top = damon_tree(tmp_path)
    written = []
    write = damon.Damon._write
    monkeypatch.setattr(
        damon.Damon,
        "_write",
        lambda self, path, text: (written.append((path, text)), write(self, path, text)),
    )
    kdamond = damon.Damon(str(tmp_path))
    kdamond.start(77, [(0x1000, 0x2000), (0x2000, 0x3000), (0x9000, 0xA000)], 0.25)
    context = "0/contexts/0/"
    assert written[:2] == [("nr_kdamonds", "1"), ("0/contexts/nr_contexts", "1")]
    assert written[-1] == ("0/state", "on")
    settings = dict(written)
    attributes = context + "monitoring_attrs/"
    assert {
        settings[attributes + "intervals/" + n] for n in ("sample_us", "aggr_us", "update_us")
    } == {"250000"}
    assert settings[attributes + "nr_regions/min"] == settings[attributes + "nr_regions/max"] == "3"
    order = [path for path, _ in written if "nr_regions/m" in path]
    assert order[0].endswith("min")  # the maximum may never be below the minimum
    assert (
        settings[context + "targets/0/pid_target"] == "77"
        and settings[context + "operations"] == "fvaddr"
    )
    assert settings[context + "targets/0/regions/2/start"] == str(0x9000)
    assert settings[context + "schemes/0/access_pattern/nr_accesses/min"] == "1"
    assert settings[context + "schemes/1/access_pattern/nr_accesses/min"] == "0"
    for scheme, size in (0, 4096), (1, 12288):
        (top / context / (f"schemes/{scheme}/stats/sz_tried")).write_text(f"{size}\n")
    assert kdamond.result() == (4096, 12288)
    kdamond.close()
    assert written[-2:] == [("0/state", "off"), ("nr_kdamonds", "0")]


def test_damon_in_use_or_missing(tmp_path):
    with pytest.raises(Unavailable, match="CONFIG_DAMON_SYSFS"):
        damon.Damon(str(tmp_path))
    top = damon_tree(tmp_path, "1")
    with pytest.raises(Error, match="somebody has set it up"):
        damon.Damon(str(tmp_path))
    assert (top / "nr_kdamonds").read_text() == "1\n"
    (top / "0/contexts/0/avail_operations").write_text("paddr\n")
    with pytest.raises(Unavailable, match="CONFIG_DAMON_VADDR"):
        damon.Damon(str(tmp_path))
    (top / "nr_kdamonds").write_text("0\n")
    with pytest.raises(Unavailable, match="CONFIG_DAMON_VADDR"):
        damon.Damon(str(tmp_path))
    config = tmp_path / "boot" / ("config-" + os.uname().release)
    config.parent.mkdir()
    config.write_text("CONFIG_DAMON_VADDR=y\n")
    damon.check(str(tmp_path))
    config.write_text("# CONFIG_DAMON_VADDR is not set\n")
    with pytest.raises(Unavailable, match="CONFIG_DAMON_VADDR"):
        damon.check(str(tmp_path))
    assert (top / "nr_kdamonds").read_text() == "0\n"  # (a file is not cut: "0" over "0\n")
