# SPDX-License-Identifier: GPL-2.0-or-later
"""make install: what lies where, under which names and modes; and what the packages declare."""

import configparser
import importlib.util
import os
import re
import shutil
import subprocess

import pytest

from helpers import ROOT

CONFIG = configparser.ConfigParser()
CONFIG.read(os.path.join(ROOT, "setup.cfg"))
PAGES = re.findall(r"^man/([a-z-]+)\.([18]):", CONFIG["build_manpages"]["manpages"], re.M)
NAMES = sorted(name for name, _ in PAGES)
KEPT = [name for name in NAMES if name.startswith("crisis-")]  # of these, the name is kept
SHELLS = ("bash", "zsh", "fish")


def text(path):
    with open(os.path.join(ROOT, path), encoding="utf-8") as f:
        return f.read()


def make(target, *variables, umask=0o022):
    subprocess.check_call(
        ["make", "-s", "-C", ROOT, target, *variables], preexec_fn=lambda: os.umask(umask)
    )


def renamed(name):
    return name if name.startswith("crisis-") else "x-" + name


def entries(directory):
    """{path: mode} of all that is not a directory."""
    return {
        str(path.relative_to(directory)): path.lstat().st_mode & 0o777
        for path in directory.rglob("*")
        if path.is_symlink() or not path.is_dir()
    }


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """What `make install` has put below a DESTDIR, with renamed commands, by a user whose umask
    hides files.
    """
    directory = tmp_path_factory.mktemp("with a space") / "destination"
    make("install", f"DESTDIR={directory}", "prefix=/usr", "PROGRAM_PREFIX=x-", umask=0o077)
    return directory


def test_everyone_can_read_what_is_installed(tree):
    for path in (tree, *tree.rglob("*")):
        if not path.is_symlink():
            mode = path.stat().st_mode & 0o777
            runs = path.is_dir() or path.parent == tree / "usr/share/crisis-tools/bin"
            assert mode == (0o755 if runs else 0o644), path


def test_a_command_is_a_relative_link(tree):
    for name, section in PAGES:
        link = tree / "usr" / ("sbin" if section == "8" else "bin") / renamed(name)
        assert os.readlink(link) == f"../share/crisis-tools/bin/{name}"


def test_the_bytecode_is_that_of_the_installed_path(tree):
    library = tree / "usr/share/crisis-tools/lib/crisis"
    caches = list(library.glob("__pycache__/cli.*.pyc"))
    assert caches and b"/usr/share/crisis-tools/lib/crisis/cli.py" in caches[0].read_bytes()
    assert os.fsencode(tree) not in caches[0].read_bytes()


def test_every_section_7_page_is_installed(tree):
    expected = {page for page in os.listdir(os.path.join(ROOT, "man")) if page.endswith(".7")}
    directory = tree / "usr/share/man/man7"
    assert expected == (set(os.listdir(directory)) if directory.is_dir() else set())


def test_the_unit_starts_the_installed_command(tree):
    unit = (tree / "usr/lib/systemd/system/crisis-warm.service").read_text()
    assert "\nExecStart=/usr/sbin/crisis-warm\n" in unit and "@sbindir@" not in unit


@pytest.mark.parametrize("name, section", PAGES)
def test_a_page_has_the_installed_name(tree, name, section):
    new = renamed(name)
    page = (tree / f"usr/share/man/man{section}/{new}.{section}").read_text().replace("\\-", "-")
    assert page.startswith(f".TH {new.upper()} ")
    assert f"\n.SH NAME\n{new} - " in page
    assert re.search(rf"^\.SH SYNOPSIS\n(?:\.nh\n\.ad l\n)?\.B {new}$", page, re.M)
    for other, number in re.findall(r"^\.BR ([a-z-]+) \((\d)\)", page, re.M):
        assert (other, number) not in PAGES or other.startswith("crisis-"), other
    lines = re.findall(r"^(?:[#$] |  )([a-z-]+)(?: |$)", examples(page), re.M)
    assert not set(lines) & set(NAMES) - set(KEPT)


def examples(page):
    """The example sections and the verbatim blocks of a page."""
    sections = re.findall(r"^\.SH (?:EXAMPLES|COMMENTS)\n(.*?)(?=^\.SH |\Z)", page, re.M | re.S)
    return "".join(sections + re.findall(r"^\.EX\n(.*?)^\.EE", page, re.M | re.S))


PAGE = r"""
.TH PSI "1" "" "crisis\-tools 0.1.0"
.SH NAME
psi \- Show pressure
.SH DESCRIPTION
psi is a word here \- as it was.
The classic delays and psi=1 keep their names.  \fBpsi\fR(1) and \fBdelays \-p\fR change; so does
.BR delays (8),
but not the system call
.BR delays (2).
.SH EXAMPLES
.EX
  psi \-T 10          of psi
# psi | head
$ clush \-w delays2 delays \-j | crisis\-merge
delays of no command
.EE
"""


def rename():
    spec = importlib.util.spec_from_file_location(
        "rename", os.path.join(ROOT, "packaging/rename.py")
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_only_what_names_a_command_is_renamed(tmp_path, capfdbinary):
    path = tmp_path / "psi.1"
    path.write_text(PAGE)
    rename().main("x-", "-y", str(path), "psi", "delays")
    assert capfdbinary.readouterr().out.decode() == (
        PAGE.replace(".TH PSI", ".TH X-PSI-Y")
        .replace("\npsi \\- Show", "\nx-psi-y \\- Show")
        .replace(r"\fBpsi", r"\fBx-psi-y")
        .replace(r"\fBdelays", r"\fBx-delays-y")
        .replace("delays (8)", "x-delays-y (8)")
        .replace("  psi ", "  x-psi-y ")
        .replace("# psi ", "# x-psi-y ")
        .replace("delays2 delays ", "delays2 x-delays-y ")
    )


def test_help_and_errors_have_the_installed_name(tree):
    def run(name, *args):
        directory = "sbin" if (name, "8") in PAGES else "bin"
        return subprocess.run(
            [tree / "usr" / directory / renamed(name), *args], capture_output=True, text=True
        )

    for name, _ in PAGES:
        shown = run(name, "--help").stdout
        assert shown.startswith(f"usage: {renamed(name)} ")
        table = shown.partition("\nexamples:\n")[2]
        # A line of examples, without its explanation and without what continues one.
        lines = re.findall(r"^ {1,9}(\S+(?: \S+)*)", table, re.M)
        words = {word for line in lines for word in line.split()}
        assert not words & set(NAMES) - set(KEPT), name
    assert run("fincore").stderr == "x-fincore: no file specified. Try 'x-fincore --help'\n"
    # The lines of a table stay aligned.
    table = run("runqslower", "--help").stdout.partition("\nexamples:\n")[2]
    columns = [len(before) for before in re.findall(r"^( .*  )(?:each|of|also) ", table, re.M)]
    assert len(columns) == 4 and len(set(columns)) == 1


def test_crisis_warm_takes_the_installed_name(tree):
    """It fails for another reason where there is no BPF program."""
    found = subprocess.run([tree / "usr/sbin/crisis-warm", "x-psi"], capture_output=True, text=True)
    assert found.stderr == "crisis-warm: cannot compile psi: it loads no BPF program\n"


@pytest.mark.parametrize(
    "variables, link, target",
    [
        (["PREFIX=/opt"], "opt/sbin/runqlat", "../share/crisis-tools/bin/runqlat"),
        # as in Fedora 42 and newer
        (
            ["prefix=/usr", "sbindir=/usr/bin"],
            "usr/bin/runqlat",
            "../share/crisis-tools/bin/runqlat",
        ),
        (
            ["bindir=/a/b/bin", "sbindir=/a/b/sbin", "datadir=/c", "mandir=/man", "unitdir="],
            "a/b/sbin/runqlat",
            "../../../c/crisis-tools/bin/runqlat",
        ),
    ],
)
def test_directories(tmp_path, variables, link, target):
    make("install", f"DESTDIR={tmp_path}", "PYCOMPILE=:", *variables)
    assert os.readlink(tmp_path / link) == target
    shown = subprocess.check_output([tmp_path / link, "--version"], text=True)
    assert shown.startswith("runqlat ")
    others = tmp_path / link.rpartition("/")[0] / "theirs"
    others.write_text("")
    make("uninstall", f"DESTDIR={tmp_path}", *variables)
    assert set(entries(tmp_path)) == {str(others.relative_to(tmp_path))}


@pytest.fixture(scope="module")
def completion(tmp_path_factory):
    """A directory with what tests/tools/completion has made, SHELL/COMMAND."""
    for python in "python3", "/usr/bin/python3":
        query = [python, "-c", "import shtab; print(*shtab.SUPPORTED_SHELLS)"]
        known = subprocess.run(query, capture_output=True, text=True).stdout.split()
        if known:
            directory = tmp_path_factory.mktemp("completion") / "completion"
            tool = os.path.join(ROOT, "tests/tools/completion")
            shells = [shell for shell in SHELLS if shell in known]
            subprocess.check_call([python, tool, directory, *shells])
            return directory
    pytest.skip("shtab, which makes the completion, is not installed: python3-shtab")


def with_shell(completion, shell):
    """The directory of a shell's files; skips the test where something is missing."""
    if not (completion / shell).is_dir():
        pytest.skip(f"this shtab makes nothing for {shell}")
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not installed")
    return completion / shell


def options(name):
    shown = subprocess.check_output([os.path.join(ROOT, "bin", name), "--help"], text=True)
    return set(re.findall(r"^  (?:-\w[^,]*, )*(--[a-z][a-z-]*)", shown, re.M))


def test_bash_completes_every_option(completion):
    directory = with_shell(completion, "bash")
    assert sorted(os.listdir(directory)) == NAMES
    script = """
    . "$1"
    [[ $(complete -p "$2") =~ -F\\ ([^ ]+) ]]
    COMP_WORDS=("$2" --) COMP_CWORD=1
    ${BASH_REMATCH[1]}
    printf '%s\n' "${COMPREPLY[@]}"
    """
    for name in NAMES:
        found = subprocess.check_output(
            ["bash", "-c", script, "bash", directory / name, name], text=True
        )
        assert options(name) and options(name) <= set(found.split()), name


def test_bash_completes_file_names(completion, tmp_path):
    directory = with_shell(completion, "bash")
    (tmp_path / "wal").touch()
    script = """
    . "$1"
    COMP_WORDS=(fincore w) COMP_CWORD=1
    _shtab_fincore
    printf '%s\n' "${COMPREPLY[@]}"
    """
    command = ["bash", "-c", script, "bash", directory / "fincore"]
    assert subprocess.check_output(command, text=True, cwd=tmp_path) == "wal\n"


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_read_their_files(completion, shell):
    directory = with_shell(completion, shell)
    assert sorted(os.listdir(directory)) == NAMES
    for name in NAMES:
        subprocess.check_call([shell, "-n", directory / name])


def test_completion_is_installed_under_the_installed_name(completion, capfdbinary):
    places = {
        "bash": rb"^complete .* x-runqlat-y$",
        "zsh": rb"^#compdef x-runqlat-y$",
        "fish": rb"^complete -c x-runqlat-y .* -l json ",
    }
    for shell in sorted(os.listdir(completion)):
        rename().main("x-", "-y", str(completion / shell / "runqlat"), "runqlat", "runqslower")
        found = capfdbinary.readouterr().out
        assert re.search(places[shell], found, re.M)
        assert not re.search(rb"^(complete|#compdef) (.* |-c )?runqlat( |$)", found, re.M)


def test_the_packages_have_the_version_of_the_suite():
    version = CONFIG["metadata"]["version"]
    assert text("packaging/debian/changelog").startswith(f"crisis-tools ({version}-")
    spec = text("packaging/crisis-tools.spec")
    assert re.search(r"^Version: +(.*)", spec, re.M).group(1) == version
    assert re.search(r"^%changelog\n\* .* - (.*)-\d+$", spec, re.M).group(1) == version


def test_the_installed_package_is_tested_with_what_the_tests_need():
    """Of README's test command, what builds, lints and cross-compiles is left out."""
    readme = re.search(
        r"--no-install-recommends (python3-bpfcc .*) && make check$", text("README.md"), re.M
    )
    unit_only = (
        "clang clang-format gcc-aarch64-linux-gnu libc6-dev-arm64-cross make python3-setuptools"
    )
    unit_only += " python3-shtab python3-venv python3-wheel"
    control = text("packaging/debian/tests/control").partition("Tests: live")[2]
    assert set(re.findall(r"^ ([a-z].*),$", control, re.M)) == set(readme.group(1).split()) - set(
        unit_only.split()
    )


def test_no_package_compiles_when_it_is_installed():
    """Of the scripts of the packages, none starts a command of the suite."""
    scripts = [text("packaging/debian/crisis-tools.postrm")]
    spec = text("packaging/crisis-tools.spec")
    scripts += re.findall(
        r"^%(?:pre|post|preun|postun|posttrans)\n(.*?)(?=^%[a-z]+\n|\Z)", spec, re.M | re.S
    )
    assert len(scripts) == 4
    for script in scripts:
        assert not re.search(r"crisis-warm(?!\.service)", script)
    maintainer = {
        name for name in os.listdir(os.path.join(ROOT, "packaging/debian")) if "inst" in name
    }
    assert not maintainer - {"crisis-tools.lintian-overrides"}


def test_the_unit_is_confined(tree):
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze is not installed")
    unit = tree / "usr/lib/systemd/system/crisis-warm.service"
    result = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=20", unit],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if "unrecognized option" in result.stdout:
        pytest.skip("systemd-analyze before 250 has no --offline")
    assert result.returncode == 0, result.stdout  # an exposure of at most 2.0
