# SPDX-License-Identifier: GPL-2.0-or-later
"""The tree as `pip install .` installs it, into a virtual environment of Debian's Python, without a
network.
"""

import configparser
import os
import re
import shutil
import subprocess

import pytest

from helpers import ROOT

CONFIG = configparser.ConfigParser()
CONFIG.read(os.path.join(ROOT, "setup.cfg"))
SCRIPTS = CONFIG["options"]["scripts"].split()
SPECIFICATIONS = CONFIG["build_manpages"]["manpages"].strip().splitlines()


def test_setup_cfg_names_every_command():
    commands = sorted(os.listdir(os.path.join(ROOT, "bin")))
    assert sorted(SCRIPTS) == [f"bin/{name}" for name in commands]


@pytest.mark.parametrize("line", SPECIFICATIONS)
def test_a_page_is_declared_as_build_manpages_reads_it(line):
    page, *options = line.split(":")
    name, section = re.fullmatch(r"man/([a-z-]+)\.([18])", page).groups()
    assert options == [
        f"pyfile=bin/{name}",
        "function=get_parser",
        f"manual_section={section}",
        f"include=man/{name}.inc",
    ]


def test_the_version_is_the_same_everywhere():
    with open(os.path.join(ROOT, "lib/crisis/__init__.py")) as f:
        assert f'__version__ = "{CONFIG["metadata"]["version"]}"' in f.read()


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """The path of a virtual environment into which pip has installed the tree."""
    # In its tests, the package needs no more than the programs of Debian: no index is queried.
    check = subprocess.run(
        [
            "/usr/bin/python3",
            "-c",
            "import ensurepip, setuptools, pyroute2, sys\n"
            "sys.exit(int(setuptools.__version__.split('.')[0]) < 61)",
        ],
        stderr=subprocess.PIPE,
        text=True,
    )
    if check.returncode:
        why = check.stderr.strip().rpartition("\n")[2] or "setuptools is older than 61"
        pytest.skip(f"no pip install without a network: {why}")
    directory = tmp_path_factory.mktemp("pip")
    source, target = directory / "source", directory / "venv"
    source.mkdir()
    for name in "bin", "lib", "man":  # a copy, since setuptools builds in the tree
        shutil.copytree(
            os.path.join(ROOT, name),
            source / name,
            ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"),
        )
    for name in "LICENSE", "README.md", "pyproject.toml", "setup.cfg":
        shutil.copy(os.path.join(ROOT, name), source)
    subprocess.check_call(["/usr/bin/python3", "-m", "venv", "--system-site-packages", target])
    result = subprocess.run(
        [target / "bin/pip", "install", "--no-index", "--no-build-isolation", source],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={"PATH": "/usr/bin:/bin", "PIP_CONFIG_FILE": os.devnull},
    )
    if "invalid command 'bdist_wheel'" in result.stdout:
        pytest.skip("no pip install without a network: setuptools before 70.1 needs python3-wheel")
    assert result.returncode == 0, result.stdout
    return target


def test_every_command_runs_from_the_environment(environment):
    for script in SCRIPTS:
        name = os.path.basename(script)
        result = subprocess.run(
            [environment / "bin" / name, "--help"], capture_output=True, text=True, cwd="/"
        )
        assert (result.returncode, result.stderr) == (0, ""), name
        assert result.stdout.startswith(f"usage: {name} ")


def test_a_command_measures_with_the_installed_library(environment):
    code = "import crisis.cli, crisis.net.link; print(crisis.__file__)"
    found = subprocess.check_output(
        [environment / "bin/python", "-c", code], cwd="/", universal_newlines=True
    )
    assert found.startswith(f"{environment}/lib/")
    result = subprocess.run(
        [environment / "bin/nicstat", "0.1", "1"], capture_output=True, text=True, cwd="/"
    )
    assert result.returncode == 0 and result.stdout.split()[:2] == ["Time", "Int"], result.stderr


def test_the_man_pages_are_beside_the_commands(environment):
    for line in SPECIFICATIONS:
        page = line.partition(":")[0]
        with open(
            environment / "share/man" / f"man{page[-1]}" / os.path.basename(page), "rb"
        ) as installed:
            with open(os.path.join(ROOT, page), "rb") as committed:
                assert installed.read() == committed.read()


def test_every_c_file_is_installed(environment):
    package = os.path.join(ROOT, "lib/crisis")
    library = os.path.dirname(
        subprocess.check_output(
            [environment / "bin/python", "-c", "import crisis; print(crisis.__file__)"],
            cwd="/",
            universal_newlines=True,
        )
    )
    for directory, _, files in os.walk(package):
        if not directory.endswith("__pycache__"):
            for name in files:
                path = os.path.relpath(os.path.join(directory, name), package)
                assert os.path.isfile(os.path.join(library, path)), path


def test_crisis_warm_leaves_other_programs_alone(environment):
    """The environment's bin directory has pip and others, which are no commands of the suite."""
    result = subprocess.run(
        [environment / "bin/crisis-warm", "pip"], capture_output=True, text=True, cwd="/"
    )
    assert result.returncode == 1 and result.stderr == "crisis-warm: no such command: pip\n"
    code = (
        "import sys; sys.argv[0] = sys.argv[1]\nfrom importlib.machinery import SourceFileLoader\n"
        "print(sorted(SourceFileLoader('warm', sys.argv[1]).load_module().sources()))"
    )
    found = subprocess.check_output(
        [environment / "bin/python", "-W", "ignore", "-c", code, environment / "bin/crisis-warm"],
        cwd="/",
        universal_newlines=True,
    )
    names = [os.path.basename(script) for script in SCRIPTS]
    assert found == f"{sorted([*names, '-p in a PID namespace'])}\n".replace("'crisis-warm', ", "")
