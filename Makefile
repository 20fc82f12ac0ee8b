PREFIX ?= /usr/local
DESTDIR ?=
PROGRAM_PREFIX ?=
PROGRAM_SUFFIX ?=
PYTHON ?= /usr/bin/python3
MANPAGE ?= argparse-manpage
RPMBUILD ?= rpmbuild
# The virtual environment of make lint and make format, made on first use.
LINTENV ?= .lint
VERSION := $(shell sed -n 's/^version = //p' setup.cfg)
PAGES := $(shell sed -n 's/^ *man\/\([a-z-]*\.[18]\):.*/\1/p' setup.cfg)
SHARE = $(PREFIX)/share/crisis-tools
sectiondir = $(if $(filter 8,$(1)),sbin,bin)

# What is called crisis-something clashes with nothing and keeps its name.
renamed = $$(case $(1) in crisis-*) echo $(1);; *) echo $(PROGRAM_PREFIX)$(1)$(PROGRAM_SUFFIX);; esac)

# A page names its own command and others of the suite, in .TH in capitals; groff's \- may stand for -.
RENAME = -E $(foreach n,$(filter-out crisis-%,$(basename $(PAGES))),-e 's/(^|[^[:alnum:]_/-])($(subst -,\\?-,$(n)))($$|[^[:alnum:]_\.-]|\.$$)/\1$(PROGRAM_PREFIX)\2$(PROGRAM_SUFFIX)\3/Ig')

.PHONY: all man install uninstall check check-unit check-live check-vm check-matrix bench lint lint-python lint-text \
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

install:
	install -d "$(DESTDIR)$(SHARE)/bin"
	set -e; for file in $$(cd lib && find crisis -name '*.py' -o -name '*.bpf.[ch]'); do \
	    install -D -m 644 lib/$$file "$(DESTDIR)$(SHARE)/lib/$$file"; \
	done
	set -e; for page in $(PAGES); do \
	    name=$${page%.*}; section=$${page##*.}; to=$(call renamed,$$name); \
	    dir=bin; [ $$section = 1 ] || dir=sbin; \
	    install -m 755 bin/$$name "$(DESTDIR)$(SHARE)/bin/$$name"; \
	    install -d "$(DESTDIR)$(PREFIX)/$$dir" "$(DESTDIR)$(PREFIX)/share/man/man$$section"; \
	    ln -sf ../share/crisis-tools/bin/$$name "$(DESTDIR)$(PREFIX)/$$dir/$$to"; \
	    sed $(RENAME) man/$$page > "$(DESTDIR)$(PREFIX)/share/man/man$$section/$$to.$$section"; \
	done
	$(PYTHON) -m compileall -q -s "$(DESTDIR)" "$(DESTDIR)$(SHARE)/lib"

uninstall:
	for page in $(PAGES); do \
	    name=$${page%.*}; section=$${page##*.}; to=$(call renamed,$$name); \
	    rm -f "$(DESTDIR)$(PREFIX)/bin/$$to" "$(DESTDIR)$(PREFIX)/sbin/$$to" \
	        "$(DESTDIR)$(PREFIX)/share/man/man$$section/$$to.$$section"; \
	done
	rm -rf "$(DESTDIR)$(SHARE)"

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
	mandoc -T lint -W warning $(PAGES:%=man/%) $(wildcard man/*.7)

# Rewrite all files in the project's style.
format: $(LINTENV)/installed
	ruff check --fix-only
	ruff format
	clang-format -i lib/crisis/progs/*.[ch]

lint: lint-python lint-text
	$(PYTHON) -m compileall -q lib bin tests
	shellcheck -x .ci/run tests/vm/run tests/vm/foreign tests/vm/check tests/vm/guest \
	    tests/matrix/root tests/matrix/in-root
	tests/tools/check_c
	@command -v clang-format >/dev/null || { \
	    echo "make lint: clang-format is not installed. Install it: apt-get install clang-format" >&2; exit 1; }
	clang-format --dry-run -Werror lib/crisis/progs/*

dist:
	git archive --prefix=crisis-tools-$(VERSION)/ -o crisis-tools-$(VERSION).tar.gz HEAD

# The packages of HEAD, in dist/.
deb: dist
	rm -rf dist/build && mkdir -p dist/build
	tar -xzf crisis-tools-$(VERSION).tar.gz -C dist/build
	cd dist/build/crisis-tools-$(VERSION) && cp -r packaging/debian . && dpkg-buildpackage -us -uc -b
	mv dist/build/*.deb dist

rpm: dist
	$(RPMBUILD) -bb --define "_topdir $(CURDIR)/dist/rpm" --define "_sourcedir $(CURDIR)" packaging/crisis-tools.spec
	mv dist/rpm/RPMS/noarch/*.rpm dist

clean:
	rm -rf dist build lib/*.egg-info $(LINTENV)
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	rm -f man/*.new crisis-tools-*.tar.gz
