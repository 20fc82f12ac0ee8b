# SPDX-License-Identifier: GPL-2.0-or-later
"""The man pages: the order and names of their sections, examples, dates and widths.

That a page names each option is in test_commands.py, that it names each JSON key in
test_expected.py.
"""

import importlib.machinery
import importlib.util
import os
import re
import shutil
import subprocess

import pytest

from helpers import ROOT

BEFORE = ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "OVERHEAD", "OUTPUT", "JSON OUTPUT"]
AFTER = ["DATA SOURCES", "LIMITATIONS", "EXIT STATUS", "FILES", "EXAMPLES", "SEE ALSO"]
REQUIRED = ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "OUTPUT", "JSON OUTPUT"]
REQUIRED += ["EXIT STATUS", "EXAMPLES", "SEE ALSO"]
PAGES = re.findall(
    r"^    man/([a-z-]+)\.([18]):", open(os.path.join(ROOT, "setup.cfg")).read(), re.M
)
GENERATED = [f"{name}.{section}" for name, section in PAGES]
GENERAL = sorted(name for name in os.listdir(os.path.join(ROOT, "man")) if name.endswith(".7"))
# A kernel reports, a command queries.
WORDS = r"tells?|told(?! apart)|asks?|asked|so many|takes? no right"
# Names for what another section is for.
FORBIDDEN = re.compile(
    r"COMMENTS|FIELDS|COLUMNS|HEADER|REPORT|NOTES|BUGS|CAVEATS|PERMISSIONS|JSON|SOURCES|LIMITS|"
    r"EVIDENCE|MEASUREMENT|OTHER TOOLS|COMPARISON.*|DIFFERENCES.*|DESCRIPTION OF .*"
)


def read(page):
    """The text of a page."""
    with open(os.path.join(ROOT, "man", page), encoding="utf-8") as f:
        return f.read()


def sections(text):
    """{heading: content} of a page."""
    parts = re.split(r"^\.SH (.*)\n", text, flags=re.M)
    return dict(zip(parts[1::2], parts[2::2]))


def blocks(text):
    """The lines of each verbatim block, as they are printed, without the indent."""
    found = re.findall(r"^\.EX\n(.*?)\n\.EE$", text, re.M | re.S)
    return [block.replace("\\-", "-").replace("\\&", "").split("\n") for block in found]


def indents(text):
    """The indent of each verbatim block: 7, or that of a request .in before it."""
    return [int(n or 7) for n in re.findall(r"(?:^\.in (\d+)n\n)?^\.EX$", text, re.M)]


@pytest.mark.parametrize("page", GENERATED)
def test_sections_have_the_suite_s_names_and_order(page):
    headings = list(sections(read(page)))
    assert not [heading for heading in REQUIRED if heading not in headings]
    own = [heading for heading in headings if heading not in BEFORE + AFTER]
    order = [heading for heading in BEFORE + own + AFTER if heading in headings]
    assert headings == order
    assert not [heading for heading in own if FORBIDDEN.fullmatch(heading)]


@pytest.mark.parametrize("page", GENERATED)
def test_examples_are_verbatim_command_lines(page):
    name = page.partition(".")[0]
    found = blocks(sections(read(page))["EXAMPLES"])
    assert found and any(name in line for line in found[0])


@pytest.mark.parametrize("page", [page for page in GENERATED if page != "crisis-warm.8"])
def test_examples_show_output_and_explain_it(page):
    """crisis-warm prints a state for each program, which OUTPUT lists."""
    text = sections(read(page))["EXAMPLES"]
    shown = [block for block in blocks(text) if re.match(r"[#$] ", block[0])]
    assert shown and len(shown[0]) > 1, "no command line with its output"
    behind = text.rpartition("\n.EE\n")[2]
    assert len(re.findall(r"\.(?=\s|$)", behind)) >= 1, "no sentence on how to read the output"


@pytest.mark.parametrize("page", GENERATED + GENERAL)
def test_verbatim_lines_fit_into_80_columns(page):
    text = read(page)
    shown = zip(indents(text), blocks(text))
    assert not [line for indent, block in shown for line in block if indent + len(line) > 80]


@pytest.mark.parametrize("page", GENERATED)
def test_arguments_and_help_are_listed_once_in_options(page):
    found = sections(read(page))
    arguments = re.findall(r" \[(interval|count|duration|min_us)\]", found["SYNOPSIS"])
    for argument in arguments:
        entry = f".TP\n\\fB{argument}\\fR\n"
        assert [heading for heading in found if entry in found[heading]] == ["OPTIONS"]
        assert found["OPTIONS"].count(entry) == 1
    assert "\\-h]" not in found["SYNOPSIS"]
    assert found["OPTIONS"].count("\\fB\\-\\-help\\fR") == 1


@pytest.mark.parametrize("page", GENERATED + GENERAL)
def test_exit_status_lists_each_status(page):
    text = sections(read(page))["EXIT STATUS"]
    if page == "crisis-warm.8":  # 69 is no status of its own: a program may be for another kernel
        assert "77" in text
        return
    assert re.findall(r"^\.TP\n(\d+)$", text, re.M) == ["0", "1", "2", "69", "77"]


@pytest.mark.parametrize("page", GENERATED + GENERAL)
def test_words_are_those_of_man_pages(page):
    """Those of the field; see "Style" in HACKING.md."""
    assert not re.findall(rf"\b(?:{WORDS}|an octave)\b", read(page))


@pytest.mark.parametrize("directory", ["bin", "lib/crisis"])
def test_words_of_the_code_are_the_same(directory):
    """In names, messages, docstrings and comments."""
    found = {}
    for at, _, names in os.walk(os.path.join(ROOT, directory)):
        for name in names:
            if name.endswith(".pyc"):
                continue
            with open(os.path.join(at, name), encoding="utf-8") as f:
                found[name] = re.findall(rf"\b(?:{WORDS})\b", f.read())
    assert len(found) > 20 and not {name: words for name, words in found.items() if words}


def test_every_page_has_the_date_and_version_of_the_release():
    titles = {
        page: re.match(r'\.TH \S+ "\d" "(\S+)" "(.*?)" "crisis', read(page))
        for page in GENERATED + GENERAL
    }
    assert all(titles.values())
    assert len({title.groups() for title in titles.values()}) == 1
    date, source = next(iter(titles.values())).groups()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", date)
    with open(os.path.join(ROOT, "lib/crisis/__init__.py")) as f:
        version = re.search(r'__version__ = "(.*)"', f.read()).group(1)
    assert source.replace("\\-", "-") == f"crisis-tools {version}"


def test_overview_names_every_command():
    text = read("crisis-tools.7").replace("\\-", "-")
    listed = re.findall(r"^\.BR (\S+) \((\d)\)", sections(text)["SEE ALSO"], re.M)
    assert not [page for page in PAGES if page not in listed]


@pytest.mark.parametrize("page", GENERATED)
def test_page_names_the_overview(page):
    assert ".BR crisis\\-tools (7)" in sections(read(page))["SEE ALSO"]


@pytest.mark.parametrize("page", GENERATED + GENERAL)
def test_mandoc_has_no_warning(page):
    if not shutil.which("mandoc"):
        pytest.skip("mandoc is not installed")
    path = os.path.join(ROOT, "man", page)
    found = subprocess.run(
        ["mandoc", "-T", "lint", "-W", "warning", path], stdout=subprocess.PIPE, text=True
    )
    assert (found.returncode, found.stdout) == (0, "")


@pytest.fixture(scope="module")
def tool():
    """The module tests/tools/manpage."""
    path = os.path.join(ROOT, "tests/tools/manpage")
    loader = importlib.machinery.SourceFileLoader("manpage", path)
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("manpage", loader))
    loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", GENERATED)
def test_page_is_made_from_its_source_as_it_is_now(tool, page):
    """Else "make man" has been forgotten."""
    name = page.partition(".")[0]
    text = re.sub(r"^\.(?:in.*|nh)\n", "", read(page), flags=re.M)
    for heading, content in tool.sections(read(f"{name}.inc"), r"^\[>?([A-Z0-9 ]+)\]\n").items():
        assert content.strip() in text, heading
    with open(os.path.join(ROOT, "tests/expected", name, "help.txt"), encoding="utf-8") as f:
        shown = f.read()
    for entry in tool.entries(sections(text)["OPTIONS"].partition("\n.SS ")[0]):
        lines = entry.replace("\\-", "-").replace("\\\\", "\\").split("\n")[2:]
        if "--help" not in entry.replace("\\-", "-"):
            assert "".join("".join(lines).split()) in "".join(shown.split())


def test_date_is_that_of_the_newest_release(tool, monkeypatch):
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    texts = {
        "NEWS.md": "# News\n\n## Unreleased\n\n## 0.2.0 (2027-03-01)\n\n## 0.1.0 (2026-11-26)\n",
        "packaging/debian/changelog": "x (0.1.0) unstable; urgency=low\n\n"
        " -- A <a@b.c>  Thu, 26 Nov 2026 08:00:00 +0000\n",
    }
    monkeypatch.setattr(tool, "read", texts.__getitem__)
    assert tool.release_date() == "2027-03-01"
    texts["NEWS.md"] = "# News\n\n## Unreleased\n"
    assert tool.release_date() == "2026-11-26"
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    assert tool.release_date() == "1970-01-02"


def test_options_of_every_command_come_last(tool):
    text = "\n".join(
        f".TP\n\\fB\\-\\-{name}\\fR\nx" for name in ("json", "version", "top", "debug")
    )
    found = re.findall(r"(?<=\\-\\-)\w+", tool.options([".TP\n\\fBinterval\\fR\nx"], text))
    assert found == ["top", "json", "debug", "help", "version"]


def test_wide_block_loses_indent(tool):
    def indent(width):
        block = re.match(r"\.EX\n(.*?)\n\.EE", ".EX\n" + "x" * width + "\n.EE")
        return tool.fit(block).partition("\n")[0]

    assert [indent(width) for width in (73, 74, 80, 90)] == [".EX", ".in 6n", ".in 0n", ".in 0n"]
