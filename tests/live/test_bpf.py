# SPDX-License-Identifier: GPL-2.0-or-later
"""Each kind of attachment and map that the loader offers, on the running kernel.  Needs root."""

import ctypes
import json
import os
import select
import shutil
import struct
import subprocess
import sys
import time

import pytest

from crisis import bpf
from crisis.bpf import btf as types
from crisis.bpf import cache, compiler, object
from crisis.bpf.map import HASH
from crisis.errors import Unavailable
from crisis.perf import event_source
from helpers import ROOT

TEXT = r"""
#include "crisis.bpf.h"
#include <linux/sched.h>
BPF_ARRAY(hits, u64, 8);
BPF_STACK_TRACE(stacks, 1024);
BPF_RINGBUF_OUTPUT(events, 8);
struct event { u64 pid_tgid; s64 stack; u64 serial; };
static __always_inline void hit(int i)
{
	u64 *v = hits.lookup(&i);
	if (v) __sync_fetch_and_add(v, 1);
}
int on_typed(u64 *ctx) { hit(0); return 0; }
int on_raw(u64 *ctx) { hit(1); return 0; }
int on_tracepoint(void *ctx) { hit(2); return 0; }
int on_kprobe(struct pt_regs *ctx) { hit(3); return 0; }
int on_fentry(u64 *ctx) { hit(4); return 0; }
int on_uprobe(struct pt_regs *ctx)
{
	if (bpf_get_current_pid_tgid() >> 32 == PARAM(pid)) hit(5);
	return 0;
}
int on_uretprobe(struct pt_regs *ctx)
{
	if (bpf_get_current_pid_tgid() >> 32 == PARAM(pid)) hit(6);
	return 0;
}
int on_clock(struct bpf_perf_event_data *ctx)
{
	struct event e = {};
	int i = 7;
	u64 *serial = hits.lookup(&i);

	e.pid_tgid = bpf_get_current_pid_tgid();
	if (e.pid_tgid >> 32 != PARAM(pid)) return 0;
	e.stack = stacks.get_stackid(ctx, BPF_F_USER_STACK);
	/* of one CPU; and an addition that returns the sum needs Linux 5.12 */
	if (serial) e.serial = (*serial)++;
	if (events.ringbuf_output(&e, sizeof(e), 0)) COUNT(dropped);
	return 0;
}
"""


def source(name, *points):
    return bpf.Source(
        "test." + name, None, [(p,) for p in points], ("pid",), ("dropped",), text=TEXT
    )


@pytest.fixture(scope="module")
def build():
    cache = {}

    def build(src):
        if "obj" not in cache:
            cache["obj"] = compiler.compiled(
                source("all", "tp_btf/sched_switch:on_typed", "fentry/vfs_read:on_fentry"), "auto"
            )
        obj = object.unpack(cache["obj"])
        obj.name, obj.points = src.name, src.points
        return obj

    return build


def program(build, name, *points):
    prog = bpf.Program(
        build(source(name, *points)), {"pid": os.getpid()}, {"events": {"max_entries": 32768}}
    )
    prog.attach()
    return prog


def hits(prog):
    return [struct.unpack("=Q", value)[0] for _, value in prog.maps["hits"].items()]


@pytest.mark.guest
@pytest.mark.parametrize(
    "point, index",
    [
        ("tp_btf/sched_switch:on_typed", 0),
        ("raw_tp/sched_switch:on_raw", 1),
        ("tracepoint/sched:sched_switch:on_tracepoint", 2),
        ("kprobe/vfs_read:on_kprobe", 3),
        ("kretprobe/vfs_read:on_kprobe", 3),
        ("fentry/vfs_read:on_fentry", 4),
    ],
)
def test_attach(build, point, index):
    try:
        prog = program(build, "attach", point)
    except Unavailable as exc:
        if index < 3:
            raise
        pytest.skip(f"this kernel refuses {point}: {exc}")
    try:
        for _ in range(20):
            time.sleep(0.001)
            open("/proc/self/stat").read()
        assert hits(prog)[index] >= 10
        assert prog.taken == [point.rpartition(":")[0]]
    finally:
        prog.close()


@pytest.mark.guest
def test_a_cookie_may_be_a_constant():
    """Where the helper is missing, before Linux 5.15, each cookie makes a program of its own."""
    prog = bpf.Program(
        cache.build(bpf.Source("test.constant", params=("cookie",), text=CONSTANT), cache=False)
    )
    places = {libc_symbol("getppid"): 1, libc_symbol("getpgrp"): 1 << 40}
    for (path, offset), cookie in places.items():
        prog.attach_uprobe("on_entry", path, offset, os.getpid(), False, cookie)
    for _ in range(7):
        os.getppid()
        os.getpgrp()
    found = {
        struct.unpack("=Q", key)[0]: struct.unpack("=Q", value)[0]
        for key, value in prog.maps["seen"].items()
    }
    prog.close()
    assert found == {1: 7, 1 << 40: 7}


def test_reasons_for_what_is_not_there(build):
    with pytest.raises(Unavailable) as caught:
        program(build, "none", "raw_tp/no_such_thing:on_raw")
    assert "raw_tp/no_such_thing" in str(caught.value)


def libc_symbol(name):
    """(path, file offset) of a function of the libc that this process has mapped, by its own memory
    map.
    """
    address = ctypes.cast(getattr(ctypes.CDLL(None), name), ctypes.c_void_p).value
    for line in open("/proc/self/maps"):
        fields = line.split(None, 5)
        low, high = (int(x, 16) for x in fields[0].split("-"))
        if low <= address < high:
            return fields[5].strip(), address - low + int(fields[2], 16)
    raise AssertionError(name)


@pytest.mark.guest
def test_uprobes(build):
    prog = program(build, "uprobe")
    path, offset = libc_symbol("getppid")
    prog.attach_uprobe("on_uprobe", path, offset)
    prog.attach_uprobe("on_uretprobe", path, offset, pid=os.getpid(), returning=True)
    for _ in range(100):
        os.getppid()
    assert hits(prog)[5:7] == [100, 100]
    prog.close()


CONSTANT = r"""
#include "crisis.bpf.h"
BPF_HASH(seen, u64, u64, 16);
int on_entry(struct pt_regs *ctx) { u64 key = PARAM(cookie); seen.increment(key); return 0; }
"""

COOKIES = r"""
#include "crisis.bpf.h"
#include <linux/sched.h>
BPF_HASH(seen, u64, u64, 16);
static __always_inline void note(struct pt_regs *ctx, u64 returning)
{
	u64 key = get_attach_cookie(ctx) + returning;
	seen.increment(key);
}
int on_entry(struct pt_regs *ctx) { note(ctx, 0); return 0; }
int on_return(struct pt_regs *ctx) { note(ctx, 1000); return 0; }
#ifdef SESSION
KFUNC(bool, bpf_session_is_return, void);
int on_both(struct pt_regs *ctx)
{
	u64 back = bpf_session_is_return();
	note(ctx, back ? 1000 : 0);
	/* of the second one the return is not wanted */
	return !back && get_attach_cookie(ctx) == 2;
}
#endif
"""


@pytest.mark.guest
def test_kernel_functions_that_this_kernel_lacks():
    """An optional one has no macro; one that is not makes the source unusable."""
    text = """
#ifdef KFUNC_no_such_function
#error "defined"
#endif
BPF_ARRAY(seen, u64, 1);
int on_fork(void *ctx) { return 0; }
"""
    obj = cache.build(
        bpf.Source("test.optional", text=text, kfuncs=("no_such_function?",)), cache=False
    )
    assert obj.unusable is None and "on_fork" in obj.functions
    obj = cache.build(
        bpf.Source("test.missing", text=text, kfuncs=("no_such_function",)), cache=False
    )
    assert obj.unusable == "this kernel has no no_such_function"


@pytest.mark.parametrize("how", ["perf", "multi", "session"])
def test_many_uprobes_with_cookies(how):
    extra = (
        {
            "defines": {"SESSION": 1},
            "kfuncs": ("bpf_session_is_return",),
            "requires": ("return_consumer",),
        }
        if how == "session"
        else {"requires": ("BPF_FUNC_get_attach_cookie",)}
    )
    try:
        prog = bpf.Program(
            cache.build(bpf.Source("test.cookies_" + how, text=COOKIES, **extra), cache=False)
        )
    except Unavailable as exc:
        pytest.skip(str(exc))
    places = {libc_symbol("getppid"): 1, libc_symbol("getpgrp"): 2}
    path = next(iter(places))[0]
    places = {offset: cookie for (_, offset), cookie in places.items()}
    try:
        if how == "perf":
            for offset, cookie in places.items():
                prog.attach_uprobe("on_entry", path, offset, os.getpid(), False, cookie)
                prog.attach_uprobe("on_return", path, offset, os.getpid(), True, cookie)
        elif how == "multi":
            prog.attach_uprobes("uprobe_multi", "on_entry", path, places, os.getpid())
            prog.attach_uprobes("uretprobe_multi", "on_return", path, places, os.getpid())
        else:
            prog.attach_uprobes("uprobe_session", "on_both", path, places, os.getpid())
    except OSError as exc:
        if how == "multi" and exc.errno == 22:
            pytest.skip("this kernel has no multi uprobes")
        raise
    for _ in range(7):
        os.getppid()
        os.getpgrp()
    found = {
        struct.unpack("=Q", key)[0]: struct.unpack("=Q", value)[0]
        for key, value in prog.maps["seen"].items()
    }
    prog.close()
    assert found.pop(1002, 0) == (0 if how == "session" else 7)
    assert found == {1: 7, 2: 7, 1001: 7}


@pytest.mark.guest
def test_software_event_stacks_and_ring_buffer(build):
    prog = program(build, "clock")
    cpu = sorted(os.sched_getaffinity(0))[0]
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})
    try:
        prog.attach_software("on_clock", 0, cpu, frequency=997)
        ring = bpf.RingBuffer(prog.maps["events"])
        records, end = [], time.monotonic() + 1.5
        while time.monotonic() < end:
            sum(range(20000))
            if select.select([ring.fd], [], [], 0)[0]:
                records += ring.read()
    finally:
        os.sched_setaffinity(0, before)
    assert len(records) > 50
    rows = [struct.unpack("=QqQ", r) for r in records]
    # in order, none lost
    assert [r[2] for r in rows] == list(range(rows[0][2], rows[0][2] + len(rows)))
    assert all(r[0] >> 32 == os.getpid() for r in rows)
    stacks = [prog.maps["stacks"].stack(r[1]) for r in rows if r[1] >= 0]
    assert any(stacks) and prog.counters() == {"dropped": 0}
    prog.close()


def test_ring_buffer_wraps_and_counts_what_did_not_fit(build):
    prog = program(build, "wrap")
    cpu = sorted(os.sched_getaffinity(0))[0]
    os.sched_setaffinity(0, {cpu})
    ring = bpf.RingBuffer(prog.maps["events"])
    prog.attach_software("on_clock", 0, cpu, frequency=4000)
    end = time.monotonic() + 15
    while time.monotonic() < end and not prog.counters()["dropped"]:
        sum(range(20000))
    records = ring.read()
    # the kernel keeps the two ends apart
    assert prog.counters()["dropped"] > 0 and len(records) == 32768 // 32 - 1
    for _ in range(50):
        sum(range(20000))
    assert ring.read()
    os.sched_setaffinity(0, set(range(os.cpu_count())))
    prog.close()


def test_headers_agree_with_bpftool():
    """Offsets of members, against an independent reader of the same BTF."""
    if not os.path.exists(types.VMLINUX):
        pytest.skip("this kernel has no BTF")
    btf = types.Btf(open(types.VMLINUX, "rb").read())
    if not shutil.which("bpftool"):
        pytest.skip("bpftool is not installed")
    dump = subprocess.run(
        ["bpftool", "-j", "btf", "dump", "file", types.VMLINUX], stdout=subprocess.PIPE
    )
    if dump.returncode:
        pytest.skip("this bpftool cannot read this kernel's BTF")  # Debian 11's, that of 6.18
    checked = 0
    for item in json.loads(dump.stdout)["types"]:
        if item["kind"] == "STRUCT" and item["name"] in (
            "task_struct",
            "sock",
            "page",
            "rq",
            "file",
            "bio",
        ):
            mine = btf.find(item["name"], types.STRUCT)
            offsets = {m[0]: m[2] for m in btf.members(mine)}
            for member in item["members"]:
                if member["name"] != "(anon)":
                    assert offsets[member["name"]] == member["bits_offset"]
                    checked += 1
            assert btf.type(mine)[4] == item["size"]
    assert checked > 300


def test_pruned_header_puts_members_where_btf_says():
    """offsetof() in the pruned header, read back from the instructions, against BTF."""
    if not os.path.exists(types.VMLINUX):
        pytest.skip("this kernel has no BTF")
    btf = types.Btf(open(types.VMLINUX, "rb").read())
    members = {
        m[0]: m[2] // 8 for m in btf.members(btf.find("task_struct", types.STRUCT)) if not m[3]
    }
    names = [
        n
        for n in ("pid", "tgid", "comm", "mm", "signal", "cgroups", "start_time", "on_cpu")
        if n in members
    ]
    body = "".join(
        f"v = __builtin_offsetof(struct task_struct, {n}); out.update(&k, &v); k++;" for n in names
    )
    src = bpf.Source(
        "test.offsets",
        points=(("raw_tp/sched_switch:on_switch",),),
        text="#include <linux/sched.h>\nBPF_ARRAY(out, u64, 16);\n"
        f"int on_switch(void *ctx) {{ int k = 0; u64 v; {body} return 0; }}",
    )
    prog = bpf.Program(cache.build(src, cache=False))
    prog.attach()
    time.sleep(0.2)
    values = [struct.unpack("=Q", v)[0] for _, v in prog.maps["out"].items()]
    prog.close()
    assert values[: len(names)] == [members[n] for n in names]


def test_pmu_that_is_not_there():
    with pytest.raises(Unavailable):
        event_source.pmu_type("no-such-pmu")


def test_variables_may_be_called_as_the_kernel_calls_constants():
    """Enumerations of the kernel have names like all and none; a macro of them would break a
    program's variables.
    """
    obj = cache.build(
        bpf.Source(
            "test.names",
            text="int on_raw(u64 *ctx) { int all = ctx[0], none = ctx[1]; return all + none; }",
        ),
        cache=False,
    )
    assert list(obj.functions) == ["on_raw"]


STORAGE = r"""
#include "crisis.bpf.h"
#ifdef STORAGE
TASK_STORAGE(mine, u64);
#else
BPF_HASH(mine, u32, u64, 16);
#endif
BPF_ARRAY(found, u64, 1);
int on_switch(u64 *ctx)
{
#ifdef STORAGE
	u64 *count = mine.sk_storage_get((struct task_struct *)ctx[1], 0, 1);
	int zero = 0;

	if (count && ++*count > 5)
		found.increment(zero);
#endif
	return 0;
}
"""


def test_task_storage():
    """A value of each task, by a map that bcc does not know; a hash of the same name stays one."""
    build = [
        cache.build(
            bpf.Source(
                "test.storage",
                None,
                (("tp_btf/sched_switch:on_switch",),),
                text=STORAGE,
                defines=defines,
                requires=("BPF_FUNC_task_storage_get",),
            ),
            cache=False,
        )
        for defines in ({"STORAGE": 1}, {})
    ]
    if build[0].unusable:
        pytest.skip(build[0].unusable)
    assert [{m[0]: m[1] for m in obj.maps}["mine"] for obj in build] == [29, HASH]
    prog = bpf.Program(build[0])
    prog.attach()
    for _ in range(20):
        time.sleep(0.001)
    assert struct.unpack("=Q", prog.maps["found"].lookup(bytes(4)))[0] >= 10
    prog.close()


RECORDS = r"""
#include "crisis.bpf.h"
struct key { u32 cpu; u8 bank; };
struct value { u64 count; struct { s16 low; char name[6]; } inner; u32 slots[64]; };
struct event { u64 serial; char path[32]; };
RECORD(event);
BPF_HASH(table, struct key, struct value, 16);
BPF_ARRAY(bank, u32, 2);
BPF_PERCPU_ARRAY(serials, struct key, 1);
BPF_RINGBUF_OUTPUT(events, 1);
int on_switch(void *ctx)
{
	struct key key = { .cpu = 7, .bank = 1 };
	struct value value = {
		.count = 5, .inner = { .low = -2, .name = "abc" }, .slots = { 1, 2, 3 }
	};
	struct event event = { .serial = ~0ULL, .path = "a\0b" };

	int first = 0;
	u32 *done = bank.lookup(&first);

	if (done && !*done) {
		*done = 1;
		table.update(&key, &value);
		events.ringbuf_output(&event, __builtin_offsetof(struct event, path) + 4, 0);
	}
	return 0;
}
"""


def test_records():
    """Keys and values by the names of the C structs, of a map whose last array was made shorter and
    of a ring buffer.
    """
    obj = cache.build(
        bpf.Source("test.records", None, (("raw_tp/sched_switch:on_switch",),), text=RECORDS),
        cache=False,
    )
    # record_event has been dropped
    assert sorted(m[0] for m in obj.maps) == ["bank", "events", "serials", "table"]
    assert obj.layouts == {
        "key": "cpu:I bank:B 3x",
        "event": "serial:Q path:32s",
        "value": "count:Q inner_low:h inner_name:6s slots:64I",
    }
    prog = bpf.Program(obj, maps={"table": {"elements": 3}})
    ring = bpf.RingBuffer(prog.maps["events"], prog.layouts["event"])
    prog.attach()
    table, bank = prog.maps["table"], prog.maps["bank"]
    while not table.records():
        time.sleep(0.001)
    ((key, value),) = table.records()
    assert (key.cpu, key.bank) == (7, 1) and table.value_size == 28
    assert (value.count, value.inner_low, value.inner_name, value.slots) == (
        5,
        -2,
        b"abc\0\0\0",
        (1, 2, 3),
    )
    assert table.read(key) == table.read((7, 1)) == value and table.read((8, 1)) is None
    table.clear(key)
    assert table.read(key) == (0, 0, bytes(6), (0, 0, 0))
    assert table.remove(key) and not table.remove(key) and table.records() == []
    bank.write(1, 9)
    with pytest.raises(FileExistsError):
        bank.write(0, 2, flags=bpf.NOEXIST)
    assert prog.maps["serials"].read_per_cpu(0) == [(0, 0)] * bpf.possible_cpus()
    assert bank.records() == [(0, 1), (1, 9)] and bank.read(1) == 9
    assert set(ring.records()) == {(2**64 - 1, b"a\0b\0")}  # two CPUs may have sent one each
    prog.close()


LIMITED = r"""
import resource, sys
sys.path.insert(0, sys.argv[1])
from crisis import bpf
from crisis.bpf import cache
from crisis.errors import Error
soft, hard, uprobes = map(int, sys.argv[2:5])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
text = "int on_switch(void *ctx) { return 0; }\nint on_call(struct pt_regs *ctx) { return 0; }"
points = (("raw_tp/sched_switch:on_switch",),)
source = bpf.Source("test.limit", None, points, probes=("uprobe:on_call",), text=text)
obj = cache.build(source, cache=False)
try:
    program = bpf.Program(obj)
    program.attach()
    for _ in range(uprobes):
        program.attach_uprobe("on_call", sys.argv[5], int(sys.argv[6]))
except Error as exc:
    sys.exit("%d %s" % (exc.status, exc))
"""


@pytest.mark.parametrize(
    "soft, hard, uprobes, why",
    [
        (16, 64, 0, None),
        (
            16,
            16,
            0,
            "1 cannot open 3 BPF maps, programs and events: the limit of open files is 16. "
            "Raise it with ulimit -Hn ",
        ),
        (
            64,
            64,
            100,
            "1 cannot open another file: the limit of 64 on open files is reached. Raise it "
            "with ulimit -Hn",
        ),
        (
            64,
            99,
            100,
            "1 cannot open another file: the limit of 64 on open files is reached. Raise it "
            "with ulimit -Sn",
        ),
    ],
)
def test_limit_of_open_files(soft, hard, uprobes, why):
    path, offset = libc_symbol("getppid")
    lib = os.path.join(ROOT, "lib")
    words = map(str, (lib, soft, hard, uprobes, path, offset))
    result = subprocess.run(
        [sys.executable, "-I", "-c", LIMITED, *words], stderr=subprocess.PIPE, text=True
    )
    assert result.stderr.startswith(why) if why else result.returncode == 0, result.stderr


def test_without_sys():
    """The message names what is not mounted, and not a kernel option."""
    hide = ["unshare", "-m", "sh", "-c", 'umount -l /sys && exec "$@"', "-"]
    if subprocess.call(hide + ["true"]):
        pytest.skip("/sys cannot be unmounted here")
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\nfrom crisis import bpf\nfrom crisis.bpf "
        "import cache\n"
        "try: cache.build(bpf.Source('test.sys', text='int f(void *ctx) { return 0; }'), "
        "cache=False)\n"
        "except Exception as exc: print(exc)"
    )
    lib = os.path.join(ROOT, "lib")
    text = subprocess.check_output(hide + [sys.executable, "-I", "-c", program, lib], text=True)
    assert (
        text == "cannot compile the BPF program: /sys is not mounted. Mount it: mount -t sysfs "
        "sysfs /sys\n"
    )


def test_without_btf():
    """What needs BTF is not for this kernel, whether it has headers or not; the remedy is named."""
    obj = cache.build(
        bpf.Source("test.btf", text="int f(void *ctx) { return 0; }", requires=("task_struct",)),
        cache=False,
        headers="kernel",
    )
    assert obj.unusable == (
        "this kernel has no BTF in /sys/kernel/btf/vmlinux, which the program needs. Boot a kernel "
        "with CONFIG_DEBUG_INFO_BTF=y"
    )


@pytest.mark.guest
@pytest.mark.parametrize("batches", [True, False])
def test_keys_are_removed_by_one_call_or_one_by_one(monkeypatch, batches):
    """Also those of which some are not there, first, last and in between."""
    from crisis.bpf import map as map_module

    table = bpf.Map("removed", 1, 4, 8, 10000)
    keys = [struct.pack("=I", number) for number in range(9000)]
    for key in keys:
        table.update(key, bytes(8))
    for number in 0, 17, 18, 4000, 8998:
        assert table.delete(keys[number])
    if not batches:
        monkeypatch.setattr(map_module, "MAP_DELETE_BATCH", 9999)
    table.remove_all(b"")
    table.remove_all(b"".join(keys[:-1]))
    assert table.items() == [(keys[-1], bytes(8))]
    os.close(table.fd)


@pytest.mark.guest
def test_entries_may_be_removed_while_a_map_is_read():
    table = bpf.Map("read", 1, 4, 2048, 5000)
    keys = {struct.pack("=I", number) for number in range(3000)}
    for key in keys:
        table.update(key, key * 512)
    found = []
    for batch in table.batches():
        assert all(value == key * 512 for key, value in batch)
        found += [key for key, _ in batch]
        table.remove_all(b"".join(key for key, _ in batch))
    assert len(found) == 3000 and set(found) == keys and table.items() == []
    os.close(table.fd)
