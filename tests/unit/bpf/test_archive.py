# SPDX-License-Identifier: GPL-2.0-or-later
"""Archives of compiled programs: what is taken from them, and what hostile or damaged ones do."""

import base64
import io
import json
import os
import stat

import pytest

from crisis import __version__, bpf, cli
from crisis.bpf import archive, cache, object
from crisis.errors import Error, Unavailable
from crisis.kernel import build

HERE = ("6.18.0-test", "#1 SMP", "x86_64", "ab" * 20)
SOURCES = [bpf.Source(f"test.{name}", text=name) for name in ("one", "two")]


@pytest.fixture(autouse=True)
def kernel(monkeypatch, tmp_path):
    """set(FIELDS): be on another kernel."""
    monkeypatch.setattr(cache, "CACHE", None)  # that of this machine is not touched

    def be(*fields):
        monkeypatch.setattr(build, "running", lambda: fields)

    be(*HERE)
    return be


def packed(name):
    meta = {
        "name": name,
        "unusable": None,
        "compiler": "bcc 0.1",
        **{key: [] for key in ("points", "probes", "maps", "functions", "counters")},
        **{key: {} for key in ("layouts", "ids", "constants")},
    }
    return object.pack(meta, b"")


def lines(**changes):
    """An archive of SOURCES, each line with these changes."""
    entries = [
        archive.Entry(
            "crisis-tools programs 1",
            *build.running(),
            __version__,
            source.name,
            "bcc 0.1",
            archive.digest(source),
            base64.b64encode(packed(source.name)).decode(),
        )
        for source in SOURCES
    ]
    return archive.text(entry._replace(**changes) for entry in entries)


def put(tmp_path, text, mode=0o644):
    path = tmp_path / "archive"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    path.chmod(mode)
    return str(path)


def names(found):
    return [object.unpack(found[archive.digest(source)]).name for source in SOURCES]


def refusal(path):
    with pytest.raises(Error) as caught:
        archive.read(str(path))
    text = str(caught.value)
    assert text.startswith("cannot import ") and "\n" not in text
    return text


def test_what_was_written_is_read(tmp_path):
    path = str(tmp_path / "archive")
    archive.write(path, lines())
    found = archive.read(path)
    assert names(found) == ["test.one", "test.two"] and len(found) == 2
    assert object.unpack(found[archive.digest(SOURCES[0])]).compiler == "bcc 0.1"
    assert stat.S_IMODE(os.stat(path).st_mode) & ~0o644 == 0


def test_an_entry_is_what_the_cache_has(tmp_path, monkeypatch):
    tmp_path.chmod(0o700)
    kept, directory = cache.packed, str(tmp_path / "cache")
    monkeypatch.setattr(cache, "packed", lambda source: kept(source, directory))
    assert archive.entry(SOURCES[0]) is None
    cache.keep(SOURCES[0], packed("test.one"), path=directory)
    found = archive.entry(SOURCES[0])
    assert (found.release, found.version, found.machine, found.build_id) == HERE
    assert (found.tools, found.program, found.compiler) == (__version__, "test.one", "bcc 0.1")
    found = archive.read(put(tmp_path, archive.text([found])))
    assert found == {archive.digest(SOURCES[0]): packed("test.one")}


def test_lines_are_documented_json():
    first = json.loads(lines().splitlines()[0])
    assert first["release"] == HERE[0] and first["build_id"] == HERE[3]
    assert base64.b64decode(first["object"]) == packed("test.one")


def test_archives_of_several_kernels_are_one(tmp_path, kernel):
    mine = lines()
    kernel("6.1.0-other", *HERE[1:])
    others = lines()
    path = put(tmp_path, others + mine + others)
    assert names(archive.read(path)) == ["test.one", "test.two"]
    kernel(*HERE)
    assert names(archive.read(path)) == ["test.one", "test.two"]
    kernel("5.10.0", *HERE[1:])
    assert "it is for kernel 6.1.0-other, 6.18.0-test, this one is 5.10.0. " in refusal(path)


def test_another_kernel(tmp_path, kernel):
    path = put(tmp_path, lines())
    kernel("6.1.0-57-amd64", *HERE[1:])
    assert refusal(path).endswith(
        "archive: it is for kernel 6.18.0-test, this one is 6.1.0-57-amd64. "
        "Run crisis-warm --export with this kernel"
    )


def test_another_build_of_the_same_release(tmp_path, kernel):
    path = put(tmp_path, lines())
    kernel(*HERE[:3], "cd" * 20)
    here, there = "cd" * 20, HERE[3]
    assert f"build of kernel {HERE[0]}: build ID {there}, this one is {here}" in refusal(path)


def test_many_kernels_are_not_all_named(tmp_path, kernel):
    text = "".join(lines(release=f"6.{number}.0") for number in range(1, 100))
    assert "6.1.0, 6.2.0, 6.3.0 and 96 more, this one is 6.18.0-test" in refusal(
        put(tmp_path, text.replace('"6.18.0"', '"6.17.1"'))
    )


def test_another_release_of_crisis_tools(tmp_path):
    path = put(tmp_path, lines(tools="99.1", object=""))
    assert f"it is of crisis-tools 99.1, this one is {__version__}. " in refusal(path)


def test_a_program_of_another_text_is_not_taken(tmp_path):
    found = archive.read(put(tmp_path, lines()))
    assert archive.digest(bpf.Source("test.one", text="three")) not in found


def test_a_kernel_without_build_id(tmp_path, kernel):
    path = put(tmp_path, lines())
    kernel(*HERE[:3], "")
    with pytest.raises(Unavailable, match="no GNU build ID"):
        archive.read(path)


@pytest.mark.parametrize(
    "text, why",
    [
        (b"", "it is empty"),
        (b"\n", "line 1 is not a program"),
        (b"\0" * 100, "line 1 is not a program"),
        (b"\xff\xfe\n", "line 1 is not a program"),
        (b"[" * 100000, "line 1 is not a program"),
        (b"[]\n", "line 1 is not a program"),
        (b"null\n", "line 1 is not a program"),
        (b"1" * 3000000, "line 1 is not a program"),
        (b'{"format":"crisis-tools programs 1"}\n', "line 1 is not a program"),
        ({"format": "crisis-tools programs 2"}, "line 1 is not a program"),
        ({"release": ["a"]}, "line 1 is not a program"),
        ({"build_id": None}, "line 1 is not a program"),
        ({"program": "x" * 300}, "line 1 is not a program"),
        ({"object": "x" * (5 << 20)}, "line 1 is not a program"),
        ({"object": ""}, "line 1, test.one: not an object of this version"),
        ({"object": "\u1234"}, "line 1, test.one: the object is not in base64"),
        ({"object": "AAA"}, "line 1, test.one: the object is not in base64"),
        (
            {"object": base64.b64encode(packed("test.one")[:-1]).decode()},
            "line 1, test.one: the checksum is wrong",
        ),
        (
            {"object": base64.b64encode(packed("test.other")).decode()},
            "line 1, test.one: the object is another program's",
        ),
    ],
    ids=lambda value: str(value)[:40],
)
def test_damaged_and_hostile_archives(tmp_path, text, why):
    """text: bytes, or what every line has in place of the right value."""
    assert why in refusal(put(tmp_path, lines(**text) if isinstance(text, dict) else text))


def test_truncated_and_extended_archives(tmp_path):
    text = lines()
    for length in range(1, len(text) - 1, 5):
        if "\n" not in text[length - 1 : length + 1]:
            assert " is not a program" in refusal(put(tmp_path, text[:length])), length
    for more in "x", "\n", text[:50]:
        assert "line 3 is not a program" in refusal(put(tmp_path, text + more))


def test_every_flipped_bit_of_a_program_is_noticed(tmp_path):
    data = packed("test.one")
    for at in range(len(data)):
        changed = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        text = lines(object=base64.b64encode(changed).decode())
        assert "line 1, test.one: " in refusal(put(tmp_path, text))


def test_names_of_programs_are_no_paths(tmp_path):
    name = "../../etc/passwd"
    found = archive.read(
        put(tmp_path, lines(program=name, object=base64.b64encode(packed(name)).decode()))
    )
    before = sorted(os.listdir(tmp_path))
    assert all(len(digest) == 64 and int(digest, 16) for digest in found)
    assert sorted(os.listdir(tmp_path)) == before == ["archive"]


def test_an_archive_that_is_too_long(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "_MAX_BYTES", 100)
    assert "it has more than 0 MiB" in refusal(put(tmp_path, lines()))


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666, 0o620])
def test_a_file_that_others_can_write(tmp_path, mode):
    assert f"others can write it (mode {mode:04o})" in refusal(put(tmp_path, lines(), mode))


def test_a_file_of_another_user(tmp_path, monkeypatch):
    path = put(tmp_path, lines())
    if os.geteuid():
        monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    else:
        os.chown(path, 65534, 65534)
    assert "it belongs to uid " in refusal(path)


def test_links_and_what_is_no_file(tmp_path):
    put(tmp_path, lines())
    (tmp_path / "link").symlink_to(tmp_path / "archive")
    os.mkfifo(tmp_path / "fifo")
    for path in tmp_path / "link", tmp_path / "fifo", tmp_path, "/dev/zero":
        assert "it is not a regular file" in refusal(path)
    assert "No such file or directory" in refusal(tmp_path / "nothing")


def test_an_export_replaces_files_only(tmp_path):
    put(tmp_path, "old")
    archive.write(str(tmp_path / "archive"), "new")
    assert (tmp_path / "archive").read_text() == "new" and os.listdir(tmp_path) == ["archive"]
    (tmp_path / "link").symlink_to(tmp_path / "archive")
    os.mkfifo(tmp_path / "fifo")
    for name in "link", "fifo", "../" + tmp_path.name, "no/directory":
        with pytest.raises(Error, match="^cannot export to "):
            archive.write(str(tmp_path / name), "newer")
    assert sorted(os.listdir(tmp_path)) == ["archive", "fifo", "link"]
    assert (tmp_path / "archive").read_text() == "new"


def test_a_relative_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    archive.write("archive", lines())
    assert names(archive.read("archive")) == ["test.one", "test.two"]


def test_standard_input(monkeypatch):
    monkeypatch.setattr(cli, "reader", lambda path: io.BytesIO(lines().encode()))
    assert names(archive.read("-")) == ["test.one", "test.two"]
