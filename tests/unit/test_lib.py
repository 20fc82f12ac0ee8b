# SPDX-License-Identifier: GPL-2.0-or-later
import errno
import json
import os
import shutil
import struct
import subprocess
import time

import pytest

from crisis import hist, table
from crisis.bpf import btf as types
from crisis.bpf import header, object, source
from crisis.errors import Error, Usage, file_limit


@pytest.mark.parametrize(
    "raw, shown",
    [
        ("plain name", "plain name"),
        ("\x1b[31m", r"\x1b[31m"),
        ("a\nb", r"a\x0ab"),
        ("a\\b", r"a\\b"),
        ("\u202egnp", r"\u202egnp"),
        ("\udcff", r"\xff"),
        ("\x9b", r"\x9b"),
        ("häß", "häß"),
        ('"', '"'),
    ],
)
def test_escape(raw, shown):
    assert table.escape(raw) == shown


def test_decode_keeps_bytes_that_are_not_utf8():
    assert table.escape(table.decode(b"\xffa\0junk")) == r"\xffa"


def test_json_line_is_one_ascii_line():
    line = table.json_line({"comm": '\x1b\n"\udcff', "x": 1 / 3, "n": None})
    assert line.count("\n") == 1 and line.isascii()
    assert json.loads(line) == {"comm": '\x1b\n"\\xff', "x": 0.333333, "n": None}


def test_table_aligns_and_escapes():
    shown = table.text((("A", "%d"), ("NAME", "%-s")), [(1, "x\n"), (100, None)])
    assert shown == "  A NAME\n  1 x\\x0a\n100 -\n"


def test_object_survives_and_notices_every_flipped_bit():
    meta = {
        "name": "t",
        "unusable": None,
        "points": [],
        "probes": [],
        "maps": [],
        "layouts": {},
        "functions": [["f", 8, [], []]],
        "ids": {},
        "constants": {},
        "counters": [],
    }
    data = object.pack(meta, b"12345678")
    assert object.unpack(data).functions["f"][0] == b"12345678"
    for at in range(len(data)):
        broken = bytearray(data)
        broken[at] ^= 1
        with pytest.raises(ValueError):
            object.unpack(bytes(broken))
    for length in range(len(data)):
        with pytest.raises(ValueError):
            object.unpack(data[:length])


def btf_of(*entries):
    """A Btf of (kind, name, vlen, size or type, what follows) with {string} for the offsets of
    strings.
    """
    strings, body = [""], b""

    def offset(name):
        if name not in strings:
            strings.append(name)
        return sum(len(s) + 1 for s in strings[: strings.index(name)])

    for kind, name, vlen, size, rest in entries:
        words = [offset(word) if isinstance(word, str) else word for word in rest]
        body += struct.pack(f"=III{len(words)}I", offset(name), kind << 24 | vlen, size, *words)
    text = "".join(s + "\0" for s in strings).encode()
    return types.Btf(
        struct.pack("=HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(body), len(body), len(text)) + body + text
    )


def test_headers_of_a_struct_and_an_enum_of_one_name():
    """C has one name space for tags; Debian's kernels have a struct context and an enum context."""
    btf = btf_of(
        (types.INT, "int", 0, 4, [1 << 24 | 32]),
        (types.ENUM, "context", 1, 4, ["IN_CONTEXT", 7]),
        (types.STRUCT, "context", 1, 4, ["user", 1, 0]),
        (types.STRUCT, "prose", 1, 4, ["verse", 1, 0]),
    )
    text = header.prune(
        btf, "/* some\n prose */ int f(struct context *c) { return c->user; }  // prose\n"
    )
    assert "struct context {" in text and "enum context" not in text and "prose" not in text


def test_what_a_kernel_has():
    btf = btf_of(
        (types.INT, "int", 0, 4, [1 << 24 | 32]),
        (types.ENUM, "bpf_func_id", 1, 4, ["BPF_FUNC_get_attach_cookie", 174]),
        (types.STRUCT, "file", 1, 4, ["f_mode", 1, 0]),
        (types.FUNC_PROTO, "", 0, 1, []),
        (types.FUNC, "filemap_read", 0, 4, []),
    )
    names = ("file", "file.f_mode", "bpf_func_id", "BPF_FUNC_get_attach_cookie", "filemap_read")
    assert [name for name in names if not btf.has(name)] == []
    assert (
        not btf.has("file.f_pos")
        and not btf.has("BPF_FUNC_task_storage_get")
        and not btf.has("f_mode")
    )


def test_headers_refuse_what_is_not_btf():
    for data in b"", b"\x9f\xeb\x01", b"\0" * 64:
        with pytest.raises(ValueError):
            types.Btf(data)


def test_object_keeps_everything():
    meta = {
        "name": "t.x",
        "unusable": None,
        "points": [["tp_btf/a:f", "raw_tp/a:f"], ["kprobe/b:g"]],
        "probes": ["uprobe:f", "uretprobe:g"],
        "maps": [["m", 1, 4, 8, 16, 0, "I", "block"]],
        "layouts": {"block": "size:I 4x"},
        "functions": [["f", 16, [[0, 0]], [[8, "p"]]], ["g", 8, [], []]],
        "ids": {"tp_btf/a": 7, "fentry/b": None},
        "constants": {"C": -1},
        "counters": ["lost"],
    }
    obj = object.unpack(object.pack(meta, b"\n" * 24))
    assert obj.functions == {"f": (b"\n" * 16, [(0, 0)], [(8, "p")]), "g": (b"\n" * 8, [], [])}
    assert (obj.name, obj.unusable, obj.points, obj.maps) == (
        "t.x",
        None,
        meta["points"],
        meta["maps"],
    )
    assert (obj.ids, obj.constants, obj.counters) == (
        meta["ids"],
        meta["constants"],
        meta["counters"],
    )
    assert obj.probes == meta["probes"] and obj.layouts == meta["layouts"]
    meta.update(unusable="why\nnot\t", functions=[])
    assert object.unpack(object.pack(meta, b"")).unusable == "why not"


def test_bucket_arithmetic_of_the_kernel_side(tmp_path):
    """LOG_LINEAR, fixed_us and fixed_ms, compiled for this machine, against hist.bucket and true
    division.
    """
    if not shutil.which("cc"):
        pytest.skip("no C compiler")
    values = [v for k in range(63) for v in (2**k - 1, 2**k, 2**k + 1, 2**k * 3 // 2) if v < 2**63]
    times = [
        v
        for k in range(46)
        for v in (2**k, *(2**k * unit + d for unit in (1000, 10**6) for d in (-1, 0, 1)))
        if v < 2**56
    ]
    text = source.program_text("hist.bpf.h")
    program = f"""
#include <stdio.h>
typedef unsigned long long u64;
#undef __always_inline
#define __always_inline inline
{text}
int main(void)
{{
	u64 v[] = {{ {",".join(f"{v}ULL" for v in values)} }};
	u64 t[] = {{ {",".join(f"{v}ULL" for v in times)} }};

	for (u64 s = 0; s < 7; s++)
		for (int i = 0; i < {len(values)}; i++)
			printf("%llu\\n", LOG_LINEAR(v[i], s));
	for (int i = 0; i < {len(times)}; i++)
		printf("%llu %llu\\n", fixed_us(t[i]), fixed_ms(t[i]));
}}
"""
    (tmp_path / "t.c").write_text(program)
    subprocess.check_call(["cc", "-o", str(tmp_path / "t"), str(tmp_path / "t.c")])
    found = list(map(int, subprocess.check_output([str(tmp_path / "t")]).split()))
    buckets = [hist.bucket(v, shift) for shift in range(7) for v in values]
    assert found[: len(buckets)] == buckets
    for ns, us, ms in zip(times, found[len(buckets) :: 2], found[len(buckets) + 1 :: 2]):
        assert us >> hist.FRACTION == ns // 1000 and ms >> hist.FRACTION == ns // 10**6
        assert 0 <= us - (ns << hist.FRACTION) // 1000 <= 1 and ms == (ns << hist.FRACTION) // 10**6


def test_options_may_stand_between_the_arguments():
    from crisis import cli

    p = cli.parser("", cache=False)
    p.add_argument("-T", action="store_true")
    args = p.parse_args(["1", "-T", "5"])
    assert (args.interval, args.count, args.T) == (1.0, 5, True)
    for words in ["1", "-T", "5", "6"], ["1", "--no", "5"], ["1", "-T", "x"]:
        with pytest.raises(Usage):
            p.parse_args(words)
    p.add_argument("rest", nargs="...")
    assert p.parse_args(["1", "2", "a", "-b"]).rest == ["a", "-b"]


def test_a_wait_longer_than_poll_takes(monkeypatch):
    from crisis import cli

    reader, writer = os.pipe()
    try:
        os.write(writer, b"x")
        for seconds in 1e9, 2147484, None:
            assert cli.wait(seconds, [reader]) == [reader]
        os.read(reader, 1)
        monkeypatch.setattr(cli, "_POLL_LIMIT", 0.01)  # the limit is reached several times
        begin = time.monotonic()
        assert cli.wait(0.1, [reader]) == [] and 0.1 <= time.monotonic() - begin < 5
    finally:
        os.close(reader)
        os.close(writer)


def test_arguments_in_messages_are_short_and_escaped():
    import argparse

    from crisis import cli

    assert cli.shown("a\x1b") == r"a\x1b" and cli.shown("x" * 80) == "x" * 80
    assert cli.shown("x" * 81) == "x" * 77 + "..."
    parser = cli.parser("", cache=False)
    parser.add_argument("--kind", choices=("one", "two"))
    parser.add_argument("-n", type=int)
    long = "\n" + "y" * 5000
    for words in (
        [long],
        ["--kind", long],
        ["--kind=" + long],
        ["-n" + long],
        ["--" + long],
        [long] * 500,
        ["-n", long],
    ):
        with pytest.raises(Usage) as caught:
            parser.parse_args(words)
        assert len(str(caught.value)) < 600 and str(caught.value).endswith("--help'")
        assert "--kind" not in words[0] or "(choose from" in str(caught.value)
    for call, text in (cli.positive_int, "0"), (cli.positive_float, "x" * 5000):
        with pytest.raises(argparse.ArgumentTypeError) as caught:
            call(text)
        assert len(str(caught.value)) < 150


@pytest.mark.parametrize(
    "columns, width",
    [("99999999999", 1000), ("100", 100), ("1", 20), ("0", 80), ("-5", 80), ("abc", 80)],
)
def test_the_width_of_help_is_bounded(columns, width, monkeypatch):
    from crisis import arguments

    with monkeypatch.context() as patch:  # pytest itself goes by COLUMNS when it reports the test
        patch.setenv("COLUMNS", columns)
        patch.setattr(os, "get_terminal_size", lambda fd: os.terminal_size((0, 0)))
        assert arguments.terminal_width() == width


def test_the_limit_of_open_files_is_named():
    import resource

    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    assert f"the limit of {soft} on open files" in str(
        file_limit(OSError(errno.EMFILE, "x", "/some/file"))
    )
    assert "fs.file-max" in str(file_limit(OSError(errno.ENFILE, "x")))
    assert file_limit(OSError(errno.ENOENT, "x")) is None and file_limit(Error("x")) is None


def test_the_end_of_processes():
    from crisis import cli

    with subprocess.Popen(["sleep", "100"]) as one, subprocess.Popen(["sleep", "100"]) as other:
        ends = cli.Ends([one.pid, other.pid])
        try:
            assert cli.wait(0, ends.fds) == [] and not ends.over
            one.kill()
            ready = cli.wait(10, ends.fds)
            assert len(ready) == 1 and not ends.ended(ready) and ends.gone == {one.pid}
            other.kill()
            assert ends.ended(cli.wait(10, ends.fds)) and ends.over and ends.fds == ()
        finally:
            one.kill()
            other.kill()
    assert cli.Ends([one.pid]).over  # has ended before
    assert not cli.Ends().over


def test_ticks_end_with_the_last_process():
    from crisis import cli

    with subprocess.Popen(["sleep", "0.3"]) as child:
        begin = time.monotonic()
        found = list(cli.ticks(100, ends=cli.Ends([child.pid], quiet=True)))
        assert (
            len(found) == 1
            and 0.2 < found[0] < 50
            and abs(found[0] - (time.monotonic() - begin)) < 0.5
        )


def test_a_reader_takes_files_and_fifos(tmp_path):
    from crisis import cli

    (tmp_path / "file").write_bytes(b"a\nb\n" * 50000)
    with cli.reader(str(tmp_path / "file")) as stream:
        assert stream.readline() == b"a\n" and len(stream.read()) == 199998
    os.mkfifo(tmp_path / "fifo")
    with subprocess.Popen(["sh", "-c", f"sleep .2; (echo a; sleep .2; echo b) >{tmp_path}/fifo"]):
        with cli.reader(str(tmp_path / "fifo")) as stream:
            assert list(stream) == [b"a\n", b"b\n"]
    with pytest.raises(FileNotFoundError):
        cli.reader(str(tmp_path / "none"))
    with pytest.raises(IsADirectoryError) as caught, cli.reader(str(tmp_path)) as stream:
        stream.read(1)
    assert caught.value.filename == str(tmp_path)
