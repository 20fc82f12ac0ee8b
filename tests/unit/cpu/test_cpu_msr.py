# SPDX-License-Identifier: GPL-2.0-or-later
"""Decoding of registers, against values worked out by hand from the manuals' tables."""

import os

import pytest

from crisis.cpu import msr
from crisis.errors import NotPermitted, Unavailable
from helpers import run, write_tree


@pytest.mark.parametrize(
    "value, model, mhz",
    [
        (25 << 8, 62, 2500),
        (0x80838F3011800, 85, 2400),
        (20 << 8, 0x1E, pytest.approx(20 * 400 / 3)),
        (0, 85, None),
        (1 << 31, 85, None),
        (25 << 8, 0x37, None),
    ],
)
def test_platform_info(value, model, mhz):
    assert msr.platform_mhz(value, 6, model) == mhz


def test_platform_info_of_another_family():
    assert msr.platform_mhz(25 << 8, 15, 2) is None


@pytest.mark.parametrize(
    "value, family, mhz",
    [
        (1 << 63 | 8 << 8 | 0x82, 0x19, 3250),
        (1 << 63 | 8 << 8 | 0x64, 0x17, 2500),
        (1 << 63 | 0xA << 8 | 0x6E, 0x19, 2200),
        (8 << 8 | 0x82, 0x19, None),
        (1 << 63 | 0x82, 0x19, None),
        (1 << 63 | 540, 0x1A, 2700),
        (1 << 63 | 8 << 8 | 0x82, 0x15, None),
    ],
)
def test_pstate(value, family, mhz):
    assert msr.pstate_mhz(value, family) == mhz


@pytest.mark.parametrize(
    "leaf, mhz", [((2600, 4000, 100, 0), 2600), ((0, 0, 0, 0), None), (None, None)]
)
def test_processor_frequency(leaf, mhz):
    assert msr.processor_mhz(leaf) == mhz


def test_turbo_by_active_cores():
    assert msr.turbo_ratios(94, {0x1AD: 0x25262728}) == [(1, 40), (2, 39), (3, 38), (4, 37)]
    assert msr.turbo_ratios(94, {0x1AD: None}) == msr.turbo_ratios(94, {0x1AD: 0}) == []


def test_turbo_by_groups_of_cores():
    # Skylake-SP: ratios in 0x1ad, how many cores each holds for in 0x1ae
    steps = msr.turbo_ratios(0x55, {0x1AD: 0x1C1C1E1E20202525, 0x1AE: 0x1C1814100C080402})
    assert steps == [(2, 37), (4, 37), (8, 32), (12, 32), (16, 30), (20, 30), (24, 28), (28, 28)]
    assert [cores for cores, _ in msr.turbo_ratios(0x55, {0x1AD: 0x25, 0x1AE: None})] == [None]
    # Groups of no cores do not exist.
    assert msr.turbo_ratios(0x55, {0x1AD: 0x2020, 0x1AE: 0x02}) == [(2, 32)]


def test_turbo_of_more_than_eight_cores():
    ivy_bridge = msr.turbo_ratios(0x3E, {0x1AD: 0x1D1D1D1D1E1F2021, 0x1AE: 1 << 63 | 0x1D1D})
    assert ivy_bridge[0] == (1, 33) and ivy_bridge[-1] == (10, 29)
    haswell = {0x1AD: 0x2020202020202424, 0x1AE: 0x2020202020202020, 0x1AF: 1 << 63 | 0x2020}
    assert len(msr.turbo_ratios(0x3F, haswell)) == 18
    # the same registers of a client CPU: 0x1ae is not ratios there
    assert len(msr.turbo_ratios(0x3C, haswell)) == 8


@pytest.mark.parametrize("model", [0x57, 0x2E, 0x37])
def test_turbo_of_other_layouts_is_not_guessed(model):
    assert msr.turbo_ratios(model, {0x1AD: 0x2020}) == []


def test_thermal_status_needs_its_valid_bit():
    assert msr.thermal_status(1 << 31 | 40 << 16 | 0b10) == (40, 2)
    assert msr.thermal_status(40 << 16 | 0b10) == (None, 2)
    assert msr.thermal_status(1 << 31) == (0, 0)


def test_tj_max():
    assert msr.tj_max(100 << 16 | 10 << 24) == 100
    assert msr.tj_max(0) is None and msr.tj_max(None) is None


def test_thermal_flags_leave_out_thresholds():
    assert msr.thermal_flags(0x2) == ["thermal_log"]
    assert msr.thermal_flags(0b1111 << 6) == []
    assert msr.thermal_flags(1 << 10 | 1 << 4) == ["critical", "power_limit"]


def test_registers_without_the_driver(tmp_path):
    with pytest.raises(Unavailable, match="modprobe msr"):
        msr.Registers(str(tmp_path)).read(0, msr.IA32_TSC)
    assert msr.cpuid(0, 0, root=str(tmp_path)) is None


def test_registers_of_a_kernel_without_the_driver(tmp_path):
    config = "boot/config-" + os.uname().release
    root = write_tree(tmp_path, {config: "CONFIG_X86_MSR=m\n"})
    with pytest.raises(Unavailable, match="modprobe msr"):
        msr.Registers(root).read(0, msr.IA32_TSC)
    write_tree(tmp_path, {config: "# CONFIG_X86_MSR is not set\n"})
    with pytest.raises(Unavailable, match="built without CONFIG_X86_MSR$"):
        msr.Registers(root).read(0, msr.IA32_TSC)


def test_registers_without_the_right(tmp_path, monkeypatch):
    def refuse(*args):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("os.open", refuse)
    with pytest.raises(NotPermitted, match="CAP_SYS_RAWIO"):
        msr.Registers(str(tmp_path)).read(0, msr.IA32_TSC)


def test_a_short_read_is_no_value(tmp_path):
    (tmp_path / "dev/cpu/0").mkdir(parents=True)
    (tmp_path / "dev/cpu/0/msr").write_bytes(b"1234")
    assert msr.Registers(str(tmp_path)).read(0, 0) is None


@pytest.mark.parametrize(
    "arguments",
    [
        ["showboost", "-C", "-1"],
        ["showboost", "-C", "x\n"],
        ["showboost", "--all", "--summary"],
        ["showboost", "-C", "0", "--all"],
        ["showboost", "--source", "x"],
        ["showboost", "0"],
        ["cputemp", "nan"],
        ["cputemp", "1", "0"],
        ["cpuhot", "--cold"],
        ["cpuhot", "1", "2", "3"],
    ],
)
def test_usage(arguments):
    result = run(*arguments)
    assert result.returncode == 2 and result.stdout == "" and result.stderr.count("\n") == 1
