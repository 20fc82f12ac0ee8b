# SPDX-License-Identifier: GPL-2.0-or-later
"""As root: a child leaks 50 blocks of 777 bytes and ends; a second child gets its PID and leaks
nothing.

Run: python3 pid_reuse.py & memleak --follow -p $! 3 3.  Right: at most the first report shows 38850
  bytes.
"""

import ctypes
import os
import time

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
time.sleep(2)
first = os.fork()
if not first:
    for _ in range(50):
        libc.malloc(777)
    os._exit(0)
os.waitpid(first, 0)
for _ in range(2000):
    with open("/proc/sys/kernel/ns_last_pid", "w") as f:
        f.write(str(first - 1))
    second = os.fork()
    if not second:
        if os.getpid() == first:
            time.sleep(9)
        os._exit(0)
    if second == first:
        break
    os.waitpid(second, 0)
print("first", first, "second", second, flush=True)
time.sleep(9)
