# SPDX-License-Identifier: GPL-2.0-or-later
"""Lists of hosts, as ClusterShell expands them."""

import pytest

from crisis.fleet import nodeset


@pytest.mark.parametrize(
    "text, names",
    [
        ("web1", ["web1"]),
        ("web[1-3]", ["web1", "web2", "web3"]),
        ("web[01-03,10]", ["web01", "web02", "web03", "web10"]),
        ("web[098-101]", ["web098", "web099", "web100", "web101"]),
        ("db1,web[1,3]", ["db1", "web1", "web3"]),
        ("db1 web[1,3]", ["db1", "web1", "web3"]),
        ("r[1-2]n[0-4/2].example", [f"r{r}n{n}.example" for r in (1, 2) for n in (0, 2, 4)]),
        ("10.0.0.[9-10],::1", ["10.0.0.9", "10.0.0.10", "::1"]),
        ("web[1-2]-ib", ["web1-ib", "web2-ib"]),
    ],
)
def test_expand(text, names):
    assert nodeset.expand(text) == names


@pytest.mark.parametrize(
    "text", ["", "web[", "web[]", "web[1-", "web[3-1]", "web[a-b]", "web[1-9/0]", "web]1["]
)
def test_what_is_no_list(text):
    with pytest.raises(ValueError):
        nodeset.expand(text)


@pytest.mark.parametrize(
    "text", ["a[1-999999999]", "a[1-99999]b[1-99999]", "[1-9][0-9][0-9][0-9][0-9][0-9][0-9]"]
)
def test_a_list_is_bounded(text):
    with pytest.raises(ValueError):
        nodeset.expand(text)
