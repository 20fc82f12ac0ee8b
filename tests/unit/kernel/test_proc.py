# SPDX-License-Identifier: GPL-2.0-or-later
"""Processes and the kernel's configuration, in trees of files."""

import gzip
import os

import pytest

from crisis.errors import Error
from crisis.kernel import proc, sysfs
from helpers import write_tree as tree


def test_processes(tmp_path):
    root = tree(
        tmp_path,
        {
            "proc/7/status": "Name:\tx\nTgid:\t7\n",
            "proc/8/status": "Name:\tx\nTgid:\t7\n",
            "proc/loadavg": "0.1 0.2 0.3 2/345 678\n",
        },
    )
    proc.check_process(7, root)
    proc.check_thread(8, root)
    assert proc.thread_count(root) == 345
    for call, number in ((proc.check_process, 8), (proc.check_process, 9), (proc.check_thread, 9)):
        with pytest.raises(Error):
            call(number, root)


def test_kernel_option(tmp_path):
    release = os.uname().release
    assert proc.kernel_option("CONFIG_PSI", str(tmp_path)) is None
    root = tree(tmp_path, {"proc/config.gz": ""})
    (tmp_path / "proc/config.gz").write_bytes(
        gzip.compress(b"CONFIG_PSI=y\n# CONFIG_X is not set\n")
    )
    assert (
        proc.kernel_option("CONFIG_PSI", root) is True
        and proc.kernel_option("CONFIG_X", root) is False
    )
    root = tree(
        tmp_path,
        {"boot/config-" + release: "CONFIG_PSI_DEFAULT_DISABLED=y\n# CONFIG_PSI is not set\n"},
    )
    assert proc.kernel_option("CONFIG_PSI", root) is False


def test_a_pid_that_none_can_have(tmp_path):
    root = tree(
        tmp_path, {"proc/8/status": "Name:\tx\nTgid:\t7\n", f"proc/{1 << 31}/status": "Tgid:\t1\n"}
    )
    assert proc.process_of(8, root) == 7 and sorted(proc.processes(root)) == [8, 1 << 31]
    for pid in 1 << 31, 1 << 64, 10**4000:
        with pytest.raises(Error, match="no such process"):
            proc.check_process(pid, root)
    for text in "0-8192", "99999999999", "1-x":
        with pytest.raises(ValueError):
            sysfs.cpu_list(text)


def test_vmstat_nodes_and_lru_gen(tmp_path):
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/vmstat").write_text("nr_free_pages 123\nnr_free_pages_blocks 5\n")
    assert proc.vmstat("nr_free_pages", str(tmp_path)) == 123
    with pytest.raises(KeyError):
        proc.vmstat("nr_free", str(tmp_path))
    assert sysfs.online_nodes(str(tmp_path)) == [0] and sysfs.lru_gen(str(tmp_path)) is False
    for path, text in (
        ("sys/devices/system/node/online", "0-1,4\n"),
        ("sys/kernel/mm/lru_gen/enabled", "0x0007\n"),
    ):
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_text(text)
    assert sysfs.online_nodes(str(tmp_path)) == [0, 1, 4] and sysfs.lru_gen(str(tmp_path)) is True


def test_a_kernel_option_that_may_be_a_module(tmp_path):
    release = os.uname().release
    root = tree(tmp_path, {"boot/config-" + release: "CONFIG_X86_MSR=m\nCONFIG_PSI=y\n"})
    assert proc.kernel_option("CONFIG_X86_MSR", root) is False
    assert proc.kernel_option("CONFIG_X86_MSR", root, module=True) is True
    assert proc.kernel_option("CONFIG_PSI", root, module=True) is True
    assert proc.kernel_option("CONFIG_X86", root, module=True) is False


def test_a_capability_is_in_the_effective_set(tmp_path):
    text = "Name:\tx\nCapPrm:\t000001ffffffffff\nCapEff:\t0000000000004000\n"
    root = tree(tmp_path, {"proc/self/status": text})
    assert proc.capable(14, root) and not proc.capable(21, root)
    assert not proc.capable(14, tree(tmp_path, {"proc/self/status": "Name:\tx\n"}))
