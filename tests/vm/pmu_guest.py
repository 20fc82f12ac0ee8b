# SPDX-License-Identifier: GPL-2.0-or-later
"""What the guests of tests/vm/foreign share.  pytest is not there: a test is a function."""

import ctypes
import mmap
import os
import subprocess
import sys
import time
import traceback


def machine_code(*words):
    """A function of one argument made of 32-bit instructions."""
    page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(b"".join(word.to_bytes(4, "little") for word in words))
    function = ctypes.CFUNCTYPE(None, ctypes.c_uint64)(
        ctypes.addressof(ctypes.c_char.from_buffer(page))
    )
    function.page = page
    return function


def within(value, wanted, share):
    assert abs(value - wanted) <= share * wanted, (
        f"{value} is not within {share * 100:.2f} % of {wanted}"
    )
    print(f"      {value} of {wanted}: {(value / wanted - 1) * 100:+.4f} %")


def command(*arguments, **kwargs):
    return subprocess.run(
        list(arguments), capture_output=True, text=True, stdin=subprocess.DEVNULL, **kwargs
    )


def run_tests(names, pmu):
    """Run the functions test_* of a dict, each in a process so that none leaves counters open; how
    many failed.
    """
    base = f"/sys/bus/event_source/devices/{pmu}/events"
    events = sorted(os.listdir(base)) if os.path.isdir(base) else "-"
    print(f"{os.uname().release}, PMU {pmu}, events {events}")
    failed = 0
    for name, test in sorted(names.items()):
        if not name.startswith("test_"):
            continue
        begin = time.monotonic()
        sys.stdout.flush()
        child = os.fork()
        if not child:
            try:
                test()
                status = 0
            except Exception:
                traceback.print_exc(file=sys.stdout)
                status = 1
            sys.stdout.flush()
            os._exit(status)
        status = os.waitpid(child, 0)[1]
        failed += status != 0
        seconds = time.monotonic() - begin
        print(f"{'FAILED' if status else 'ok':7} {name} ({seconds:.1f} s)")
    print(f"{failed} failed")
    return min(failed, 100)
