# Directories by their GNU names; PREFIX is the older name of prefix.
PREFIX ?= /usr/local
prefix = $(PREFIX)
exec_prefix = $(prefix)
bindir = $(exec_prefix)/bin
sbindir = $(exec_prefix)/sbin
datarootdir = $(prefix)/share
datadir = $(datarootdir)
mandir = $(datarootdir)/man
unitdir = $(prefix)/lib/systemd/system
bashcompdir = $(datadir)/bash-completion/completions
zshcompdir = $(datadir)/zsh/site-functions
fishcompdir = $(datadir)/fish/vendor_completions.d
DESTDIR ?=
PROGRAM_PREFIX ?=
PROGRAM_SUFFIX ?=
INSTALL = install
INSTALL_PROGRAM = $(INSTALL)
INSTALL_DATA = $(INSTALL) -m 644
PYTHON ?= /usr/bin/python3
# Compiles the installed library; packages set it to : and compile when they are installed.
PYCOMPILE = $(PYTHON) -m compileall -q
INSTALLED_BY = DESTDIR bindir sbindir datadir mandir unitdir bashcompdir zshcompdir fishcompdir PROGRAM_PREFIX \
    PROGRAM_SUFFIX INSTALL INSTALL_PROGRAM INSTALL_DATA PYTHON PYCOMPILE PAGES GUIDES
MANPAGE ?= argparse-manpage
# A Python that has shtab.
SHTAB ?= python3
RPMBUILD ?= rpmbuild
# The virtual environment of make lint and make format, made on first use.
LINTENV ?= .lint
VERSION := $(shell sed -n 's/^version = //p' setup.cfg)
# Those of commands, made from their parsers, and those written by hand.
PAGES := $(shell sed -n 's/^ *man\/\([a-z-]*\.[18]\):.*/\1/p' setup.cfg)
GUIDES := $(notdir $(wildcard man/*.7))
# Seconds since 1970 that stand in what is built: of the last commit, or of the tarball.
EPOCH = $(shell git log -1 --format=%ct 2>/dev/null || stat -c %Y setup.cfg)
TARBALL = crisis-tools-$(VERSION).tar.gz

.PHONY: all man install uninstall check check-unit check-live check-vm check-matrix check-packages bench lint lint-python lint-text \
    format dist deb rpm clean
all: $(PAGES:%=man/%)

man: all

# A page is the parser's own text with the written sections of man/NAME.inc and man/common.inc.
define page
man/$(1): bin/$(basename $(1)) man/$(basename $(1)).inc man/common.inc tests/tools/manpage lib/crisis/cli.py setup.cfg
	tests/tools/manpage "$(MANPAGE)" $(basename $(1)) $(subst .,,$(suffix $(1))) $(VERSION) > $$@.new || { rm -f $$@.new; exit 1; }
	mv $$@.new $$@
endef
$(foreach p,$(PAGES),$(eval $(call page,$(p))))

# What completes the options of each command in the shells, made by shtab from its parser.
completion: $(basename $(PAGES:%=bin/%)) lib/crisis/cli.py tests/tools/completion
	$(SHTAB) tests/tools/completion $@ bash zsh fish

install uninstall:
	@$(foreach v,$(INSTALLED_BY),$(v)='$($(v))') packaging/install $@

# Both, even if the first fails.
check:
	@status=0; for part in unit live; do $(MAKE) --no-print-directory check-$$part || status=2; done; exit $$status

check-unit:
	$(PYTHON) -m pytest -q -rs -p no:cacheprovider tests/unit

check-live:
	$(PYTHON) -m pytest -q -rs -p no:cacheprovider --durations=5 tests/live

check-vm:
	tests/vm/check

# Some rows: make check-matrix MATRIX="trixie 5.10"
check-matrix:
	tests/matrix/run $(MATRIX)

# Builds, checks and installs the packages on Debian 12 and 13, and with rpm.
check-packages: dist
	tests/matrix/packages $(SUITES)

# Writes the table of README.md anew.
bench: export BENCH_ROWS := $(CURDIR)/bench-rows.jsonl
bench:
	rm -f $(BENCH_ROWS)
	set -e; for bench in $(filter-out %/harness.py,$(wildcard tests/bench/*.py)); do $(PYTHON) $$bench; done
	$(PYTHON) tests/bench/harness.py $(BENCH_ROWS) README.md

lint lint-python lint-text format: export PATH := $(abspath $(LINTENV))/bin:$(PATH)

$(LINTENV)/installed: tests/tools/lint.txt
	$(PYTHON) -m venv --clear $(LINTENV)
	$(LINTENV)/bin/pip --disable-pip-version-check install -q -r tests/tools/lint.txt
	touch $@

lint-python: $(LINTENV)/installed
	ruff check
	ruff format --check
	mypy

lint-text: $(LINTENV)/installed
	codespell .ci bin lib man packaging tests $(wildcard *.md) Makefile setup.cfg pyproject.toml
	@command -v mandoc >/dev/null || { \
	    echo "make lint: mandoc is not installed. Install it: apt-get install mandoc" >&2; exit 1; }
	mandoc -T lint -W warning $(PAGES:%=man/%) $(GUIDES:%=man/%)

# Rewrite all files in the project's style.
format: $(LINTENV)/installed
	ruff check --fix-only
	ruff format
	clang-format -i lib/crisis/progs/*.[ch]

lint: lint-python lint-text
	$(PYTHON) -m compileall -q lib bin tests
	shellcheck -x .ci/run tests/vm/run tests/vm/foreign tests/vm/check tests/vm/guest \
	    tests/matrix/root tests/matrix/in-root tests/matrix/packages packaging/install \
	    packaging/debian/tests/commands packaging/debian/tests/live
	tests/tools/check_c
	@command -v clang-format >/dev/null || { \
	    echo "make lint: clang-format is not installed. Install it: apt-get install clang-format" >&2; exit 1; }
	clang-format --dry-run -Werror lib/crisis/progs/*

# The release tarball: what git has, or the tree of another tarball, with the generated files.  It is the same each time.
dist: completion
	rm -rf dist/tree && mkdir -p dist/tree/crisis-tools-$(VERSION)
	set -e; to=dist/tree/crisis-tools-$(VERSION); umask 022; \
	if [ -e .git ]; then git archive HEAD | tar -x -C $$to; else \
	    tar -c --exclude=./dist --exclude=__pycache__ --exclude=./crisis-tools-*.tar.gz . | tar -x -C $$to; \
	fi; \
	cp -r completion $$to; \
	tar -C dist/tree --sort=name --mtime=@$(EPOCH) --owner=0 --group=0 --numeric-owner --mode=go=rX,u+w \
	    -c crisis-tools-$(VERSION) | gzip -n9 > $(TARBALL)
	rm -rf dist/tree

# The packages, in dist/: of HEAD, or of the tree where there is no git.
deb: dist
	rm -rf dist/deb && mkdir -p dist/deb
	cp $(TARBALL) dist/deb/crisis-tools_$(VERSION).orig.tar.gz
	tar -xzf $(TARBALL) -C dist/deb
	cd dist/deb/crisis-tools-$(VERSION) && cp -rp packaging/debian . && dpkg-buildpackage -us -uc
	rm -rf dist/deb/crisis-tools-$(VERSION)
	cp -p dist/deb/*.deb dist

rpm: export SOURCE_DATE_EPOCH = $(EPOCH)
rpm: dist
	$(RPMBUILD) -ba --define "_topdir $(CURDIR)/dist/rpm" --define "_sourcedir $(CURDIR)" \
	    --define "use_source_date_epoch_as_buildtime 1" --define "clamp_mtime_to_source_date_epoch 1" \
	    --define "_buildhost localhost" packaging/crisis-tools.spec
	rm -rf dist/rpm/BUILD dist/rpm/BUILDROOT
	cp -p dist/rpm/RPMS/noarch/*.rpm dist

clean:
	rm -rf completion dist build lib/*.egg-info $(LINTENV)
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	rm -f man/*.new crisis-tools-*.tar.gz
