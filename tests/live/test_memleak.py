# SPDX-License-Identifier: GPL-2.0-or-later
"""memleak on the running kernel, against programs whose leaks are known.

Needs root, and gcc and g++ for most.
"""

import contextlib
import functools
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import time

import pytest

from crisis.alloc import programs
from helpers import ROOT, SLOW, as_nobody, load, needs_quiet_machine, peak_memory, run, tool, until

AMOUNT = 30000
LEAKER = r"""
#define _GNU_SOURCE
#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define IS(name) (!strcmp(kind, name))
static long amount;
static void *keep[1 << 20];
static unsigned long seed = 1;
static unsigned long next(void)
{
	seed = seed * 6364136223846793005UL + 1442695040888963407UL;
	return seed >> 33;
}

__attribute__((noinline)) static void *leak(const char *kind)
{
	void *p = 0, *volatile q;

	if IS("malloc") p = malloc(amount);
	if IS("calloc") p = calloc(amount / 10, 10);
	if IS("realloc") p = realloc(malloc(10), amount);
	if IS("reallocarray") p = reallocarray(malloc(10), amount / 10, 10);
	if IS("posix_memalign") { if (posix_memalign(&p, 512, amount)) p = 0; }
	if IS("valloc") p = valloc(amount);
	if IS("memalign") p = memalign(512, amount);
	if IS("pvalloc") p = pvalloc(amount);
	if IS("aligned_alloc") p = aligned_alloc(512, amount);
	if IS("mmap") p = mmap(0, amount, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if IS("mremap") {
		p = mmap(0, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		p = mremap(p, 4096, amount, MREMAP_MAYMOVE);
	}
	if IS("munmap_part") {
		p = mmap(0, amount + 8192, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		munmap(p, 8192);
	}
	if IS("large") p = malloc(amount);      /* by mmap inside malloc */
	if IS("failed_realloc") {
		p = malloc(amount);
		q = realloc(p, 1UL << 60);
		if (q) abort();
	}
	if IS("failed") {
		p = malloc(amount);
		q = malloc(1UL << 60); if (q) abort();
		q = calloc(1UL << 40, 1UL << 20); if (q) abort();
		q = mmap(0, 1UL << 60, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (q != MAP_FAILED) abort();
		void *r; if (!posix_memalign(&r, 512, 1UL << 60)) abort();
	}
	if IS("freed") {
		free(malloc(123456));
		free(realloc(malloc(10), 123456));
		munmap(mmap(0, 1 << 20, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), 1 << 20);
		q = realloc(malloc(77777), 0);
		p = malloc(amount);
	}
	if IS("thread_frees") p = malloc(amount);
	return p;
}

static void *many(void *unused)
{
	for (int i = 0; i < 1000; i++) {
		free(malloc(100 + i));
		keep[i] = i % 10 ? keep[i] : malloc(50);
	}
	return 0;
}

__attribute__((constructor)) static void early(void) { keep[5] = malloc(12345); }

static void *exec_from_thread(void *argument)
{
	char **argv = argument;
	execl(argv[0], argv[0], "malloc", argv[4], (char *)0);
	return 0;
}

int main(int argc, char **argv)
{
	char c;
	const char *kind = argv[1];

	amount = atol(argv[2]);
	setvbuf(stdout, 0, _IONBF, 0);
	if (argc > 3) prctl(PR_SET_NAME, "\x1b[31m\n\"\\\xff");
	printf("%d\n", getpid());
	if (read(0, &c, 1) < 0) return 1;
	if IS("million") {
		/* known bytes, blocks and squares of bytes outstanding; a few blocks are large */
		unsigned long bytes = 0, blocks = 0, squares = 0;
		for (int i = 0; i < amount; i++) {
			unsigned long n = next() % 1000 ? 16 + next() % 256 : 4096 + next() % 20000;
			void *p = malloc(n);
			if (next() % 4) { free(p); continue; }
			bytes += n; blocks++; squares += n * n;
		}
		printf("%lu %lu %lu\n", bytes, blocks, squares);
	} else if IS("threads") {
		pthread_t t[4];
		for (int i = 0; i < 4; i++) pthread_create(&t[i], 0, many, 0);
		for (int i = 0; i < 4; i++) pthread_join(t[i], 0);
		printf("%d\n", 4 * 100 * 50);
	} else if IS("fork") {
		void *p = leak("malloc");
		if (!fork()) {
			free(p); p = malloc(2 * amount);
			printf("%p\n", p); read(0, &c, 1); return 0;
		}
		read(0, &c, 1);
		wait(0);
	} else if IS("exec") {
		leak("malloc");
		execl(argv[0], argv[0], "malloc", argv[4], (char *)0);
	} else if IS("thread_exec") {
		pthread_t t;
		pthread_create(&t, 0, exec_from_thread, argv);
		pause();
	} else if IS("grow") {
		for (;;) { keep[0] = malloc(1000); usleep(20000); if (!keep[1]) keep[1] = malloc(100000); }
	} else {
		printf("%p\n", leak(kind));
	}
	if (read(0, &c, 1) < 0) return 1;
	return 0;
}
"""
CPLUSPLUS = r"""
#include <cstdio>
#include <cstdlib>
#include <new>
#include <unistd.h>
struct alignas(256) Wide { char bytes[256]; };
namespace app {
__attribute__((noinline)) void *plain() { return ::operator new(30000); }
__attribute__((noinline)) char *array() { return new char[20000]; }
__attribute__((noinline)) char *quiet() { return new (std::nothrow) char[10000]; }
__attribute__((noinline)) Wide *wide() { return new Wide[25]; }
__attribute__((noinline)) void gone()
{
	delete[] new char[77777]; delete new int; delete[] new Wide[9];
	::operator delete(::operator new(55555), 55555UL);
	try { asm volatile("" :: "r"(::operator new(1UL << 60))); } catch (std::bad_alloc &) { } }
}
int main() {
	char c;
	if (read(0, &c, 1) < 0) return 1;
	app::gone();
	void *volatile a = app::plain(), *volatile b = app::array(), *volatile d = app::quiet();
	void *volatile e = app::wide();
	app::gone();
	printf("%p %p %p %p\n", a, b, d, e); fflush(stdout);
	if (read(0, &c, 1) < 0) return 1;
}
"""
THROWS = r"""
#include <cstdio>
#include <initializer_list>
#include <new>
#include <sys/resource.h>
#include <unistd.h>
__attribute__((noinline)) void *kept() { return ::operator new(30000); }
__attribute__((noinline)) char *array() { return new char[20000]; }
int main() {
	char c;
	int thrown = 0;
	if (read(0, &c, 1) < 0) return 1;
	struct rlimit limit = {1UL << 30, 1UL << 30};
	setrlimit(RLIMIT_AS, &limit);
	for (unsigned long size : {1UL << 60, 2UL << 30}) {
		try { asm volatile("" :: "r"(::operator new(size))); }
		catch (std::bad_alloc &) { thrown++; }
		try { asm volatile("" :: "r"(new char[size])); } catch (std::bad_alloc &) { thrown++; }
	}
	void *volatile a = kept(); void *volatile b = array();
	for (int i = 0; i < 1000; i++) delete[] (new char[i * 100]);
	printf("%d %p %p\n", thrown, a, b); fflush(stdout);
	if (read(0, &c, 1) < 0) return 1;
}
"""
FORKS = r"""
#include <cstdio>
#include <new>
#include <stdexcept>
#include <sys/wait.h>
#include <unistd.h>
static void throws() {
	try { throw std::runtime_error("x"); } catch (std::exception &) { }
	try { asm volatile("" :: "r"(::operator new(1UL << 60))); } catch (std::bad_alloc &) { }
}
int main() {
	char c;
	int status, died = 0;
	if (read(0, &c, 1) < 0) return 1;
	throws();
	for (int i = 0; i < 5; i++) {
		if (!fork()) { throws(); _exit(0); }
		wait(&status);
		died += status != 0;
	}
	printf("%d\n", died); fflush(stdout);
	if (read(0, &c, 1) < 0) return 1;
}
"""
OWN_NEW = r"""
#include <cstdio>
#include <cstdlib>
#include <new>
#include <unistd.h>
extern "C" __attribute__((noinline)) void je_free(void *p) { free(p); }
__attribute__((noinline)) void *operator new(size_t size) {
	void *p = malloc(size);
	if (!p) throw std::bad_alloc();
	return p;
}
__attribute__((noinline)) void *kept() { return ::operator new(30000); }
int main() {
	char c;
	if (read(0, &c, 1) < 0) return 1;
	void *volatile a = kept();
	je_free(::operator new(77777));
	printf("%p\n", a); fflush(stdout);
	if (read(0, &c, 1) < 0) return 1;
}
"""
JEMALLOC = r"""
#include <stdio.h>
#include <unistd.h>
void *mallocx(size_t, int); void *rallocx(void *, size_t, int);
size_t xallocx(void *, size_t, size_t, int);
void dallocx(void *, int); void sdallocx(void *, size_t, int);
int main() {
	char c;
	if (read(0, &c, 1) < 0) return 1;
	void *a = mallocx(30000, 0);
	void *b = rallocx(mallocx(100, 0), 20000, 0);
	sdallocx(mallocx(77777, 0), 77777, 0); dallocx(mallocx(66666, 0), 0);
	void *d = mallocx(9000, 0);
	size_t n = xallocx(d, 9001, 0, 0);
	printf("%p %p %zu\n", a, b, n); fflush(stdout);
	if (read(0, &c, 1) < 0) return 1;
}
"""
MIXED = r"""
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
static long bytes, blocks, count;
static void *work(void *number)
{
	unsigned long s = (unsigned long)number * 7919 + 1;
	void *p[64] = {0};
	size_t n[64] = {0};

	for (long i = 0; i < count; i++) {
		s = s * 6364136223846793005UL + 1442695040888963407UL;
		int k = s >> 58;
		size_t size = 1 + (s >> 30 & 4095) + ((s >> 20 & 1023) == 7 ? 300000 : 0);
		switch (s >> 50 & 3) {
		case 0: case 1: free(p[k]); p[k] = malloc(size); break;
		case 2: p[k] = realloc(p[k], size); break;
		case 3: free(p[k]); p[k] = calloc(1, size);
		}
		n[k] = size;
	}
	for (int k = 0; k < 64; k++)
		if (p[k]) { __sync_fetch_and_add(&bytes, n[k]); __sync_fetch_and_add(&blocks, 1); }
	return 0;
}
int main(int argc, char **argv)
{
	char c;
	pthread_t t[8];
	count = atol(argv[1]);
	if (read(0, &c, 1) < 0) return 1;
	for (long i = 0; i < 8; i++) pthread_create(&t[i], 0, work, (void *)i);
	for (int i = 0; i < 8; i++) pthread_join(t[i], 0);
	printf("%ld %ld\n", bytes, blocks);
	fflush(stdout);
	if (read(0, &c, 1) < 0) return 1;
}
"""


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    directory = tmp_path_factory.mktemp("memleak")

    def build(name, text, compiler, *flags):
        path = str(directory / name)
        if not os.path.exists(path):
            if not shutil.which(compiler):
                pytest.skip(f"{compiler} is not installed")
            source = path + (".cc" if compiler == "g++" else ".c")
            with open(source, "w") as f:
                f.write(text)
            made = subprocess.run(
                [
                    compiler,
                    "-g",
                    "-O1",
                    "-fno-builtin",
                    "-fno-omit-frame-pointer",
                    "-fno-optimize-sibling-calls",
                    "-w",
                    "-o",
                    path,
                    source,
                    *flags,
                ],
                stderr=subprocess.PIPE,
                text=True,
            )
            if "cannot find -l" in made.stderr:
                pytest.skip(f"{compiler} cannot make {name}: {made.stderr.splitlines()[-1]}")
            assert made.returncode == 0, made.stderr
        return path

    return build


def case(name):
    with open(os.path.join(ROOT, "tests/cases", name)) as f:
        return f.read()


@pytest.fixture(scope="session")
def leaker(built):
    return built("leaker", LEAKER, "gcc", "-pthread")


@functools.lru_cache(None)
def why_not(source):
    result = run("memleak", "--source", source, "-p", str(os.getpid()), ".01", "1")
    assert result.returncode in (0, 69), result.stderr
    return result.stderr.strip() if result.returncode else None


def usable(source):
    if source and why_not(source):
        pytest.skip(f"memleak --source {source}: {why_not(source)}")


def library(name):
    listing = subprocess.run(["/sbin/ldconfig", "-p"], stdout=subprocess.PIPE, text=True).stdout
    found = re.search(rf"=> (\S*/{re.escape(name)})$", listing, re.M)
    if not found:
        pytest.skip(f"{name} is not installed")
    return found.group(1)


@contextlib.contextmanager
def program(*command, env=None, lines=1):
    child = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        universal_newlines=True,
        env=dict(os.environ, **(env or {})),
    )
    child.said = [child.stdout.readline() for _ in range(lines)]
    if not lines:  # it has its libraries when it waits for its standard input
        until(lambda: open(f"/proc/{child.pid}/syscall").read().split()[1:2] == ["0x0"])
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


class Traced:
    """A memleak that has attached, and the reports that it prints."""

    def __init__(self, *args, **kwargs):
        self.child = subprocess.Popen(
            [tool("memleak"), *args],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            universal_newlines=True,
            **kwargs,
        )
        self.notes = []
        if "-v" in args:
            for line in self.child.stderr:
                self.notes.append(line)
                if "the tracing has begun" in line:
                    return
            raise AssertionError(f"memleak did not attach: {self.notes}")

    def end(self):
        self.child.send_signal(signal.SIGINT)
        text, errors = self.child.communicate(timeout=60 * SLOW)
        assert self.child.returncode == 0, (self.notes, errors)
        return text, errors


def leaks(pid_or_program, *args, go=b"\n", answer=True):
    """The records of a memleak over a program's one act: (stacks, total, what it printed)."""
    child = pid_or_program
    traced = Traced("-v", "-j", "-o", "0", "-T", "1000", "-p", str(child.pid), *args, "100")
    child.stdin.write("\n")
    child.stdin.flush()
    said = child.stdout.readline() if answer else ""
    text, _ = traced.end()
    records = [json.loads(line) for line in text.splitlines()]
    return [r for r in records if r["record"] == "stack"], records[-1], said


def names(record):
    """Innermost first; from the caller of operator new on, which has a frame where it is built with
    frame pointers.
    """
    found = [frame["name"] for frame in record["stack"]]
    while found and (found[0] or "").startswith("operator new"):
        del found[0]
    return found


@pytest.mark.parametrize(
    "kind, source",
    [
        (kind, None)
        for kind in (
            "malloc",
            "calloc",
            "realloc",
            "posix_memalign",
            "valloc",
            "memalign",
            "pvalloc",
            "aligned_alloc",
            "reallocarray",
            "mmap",
            "mremap",
            "munmap_part",
            "failed_realloc",
            "failed",
            "freed",
        )
    ]
    + [(kind, "multi") for kind in ("malloc", "posix_memalign", "failed_realloc", "freed")]
    + [("posix_memalign", "perf")]
    + [
        (kind, "functions")
        for kind in (
            "malloc",
            "reallocarray",
            "posix_memalign",
            "aligned_alloc",
            "mremap",
            "munmap_part",
            "failed_realloc",
            "freed",
        )
    ],
)
def test_each_allocator_is_exact(leaker, source, kind):
    usable(source)
    with program(leaker, kind, str(AMOUNT)) as child:
        stacks, total, _ = leaks(child, *(["--source", source] if source else []))
    assert [(r["bytes"], r["allocations"], names(r)[:2]) for r in stacks] == [
        (AMOUNT, 1, ["leak", "main"])
    ]
    assert total["bytes"] == AMOUNT and total["lost"] == dict.fromkeys(total["lost"], 0)


def test_a_large_block_is_counted_once(leaker):
    """glibc maps it: the mmap inside is no allocation of its own."""
    with program(leaker, "large", str(10 << 20)) as child:
        stacks, total, _ = leaks(child)
    assert [(r["bytes"], names(r)[0]) for r in stacks] == [(10 << 20, "leak")]


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("malloc", marks=pytest.mark.guest),
        "calloc",
        "realloc",
        pytest.param("posix_memalign", marks=pytest.mark.guest),
        "valloc",
        "memalign",
        "pvalloc",
        "aligned_alloc",
    ],
)
def test_as_bcc_tests_its_own(leaker, kind):
    """-c from the beginning; the first report, then the leak; the integer at the start of the last
    line with bytes.
    """
    child = subprocess.Popen(
        [tool("memleak"), "-c", f"{leaker} {kind} {AMOUNT}", "-T", "1", "1", "2"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    for line in child.stdout:
        if b"with outstanding allocations" in line:
            break
    text, _ = child.communicate(b"\n\n", timeout=60 * SLOW)
    assert child.returncode == 0
    assert int([line for line in text.splitlines() if b"byte" in line][-1].split()[0]) == AMOUNT


@pytest.mark.guest
def test_a_command_is_traced_from_its_first_allocation(leaker):
    """A constructor's allocation, of a program that ends at once, with all that it had."""
    result = run("memleak", "-j", "-T", "99", "-c", f"{leaker} malloc {AMOUNT}", "100")
    assert result.returncode == 0, result.stderr
    records = [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]
    assert {r["bytes"]: names(r)[0] for r in records[:-1]} == {12345: "early", AMOUNT: "leak"}
    assert records[-1]["allocations"] == 2
    static = run("memleak", "-c", "'/bin/sh' -c 'exit 3'", "100")
    assert static.returncode == 0 and "the command ended with status 3" in static.stderr


@pytest.mark.parametrize("source", [None, "functions"])
def test_cplusplus(built, source):
    usable(source)
    path = built("cplusplus", CPLUSPLUS, "g++", "-std=c++17")
    with program(path, lines=0) as child:
        stacks, total, _ = leaks(child, *(["--source", source] if source else []))
    found = {names(r)[0]: r["bytes"] for r in stacks if (names(r)[0] or "").startswith("app::")}
    assert found == {
        "app::plain()": 30000,
        "app::array()": 20000,
        "app::quiet()": 10000,
        "app::wide()": 6400,
    }
    assert total["bytes"] == 66400 + sum(
        r["bytes"] for r in stacks if not (names(r)[0] or "").startswith("app::")
    )
    assert total["bytes"] - 66400 in (0, 1024, 4096)  # stdout's buffer


@pytest.mark.parametrize(
    "name", ["libjemalloc.so.2", "libtcmalloc.so.4", "libtcmalloc_minimal.so.4"]
)
def test_other_allocators(leaker, built, name):
    preload = {"LD_PRELOAD": library(name)}
    for kind in (
        "malloc",
        "calloc",
        "realloc",
        "posix_memalign",
        "memalign",
        "aligned_alloc",
        "freed",
        "failed_realloc",
    ):
        with program(leaker, kind, str(AMOUNT), env=preload) as child:
            stacks, total, _ = leaks(child)
        assert [(r["bytes"], names(r)[0]) for r in stacks] == [(AMOUNT, "leak")], kind
    path = built("cplusplus", CPLUSPLUS, "g++", "-std=c++17")
    with program(path, env=preload, lines=0) as child:
        stacks, total, _ = leaks(child)
    found = {names(r)[0]: r["bytes"] for r in stacks if (names(r)[0] or "").startswith("app::")}
    assert found == {
        "app::plain()": 30000,
        "app::array()": 20000,
        "app::quiet()": 10000,
        "app::wide()": 6400,
    }


@pytest.mark.guest
@pytest.mark.parametrize("source", ["session", "multi", "perf", "functions"])
@pytest.mark.parametrize("name", [None, "libjemalloc.so.2", "libtcmalloc_minimal.so.4"])
def test_a_program_that_catches_bad_alloc_lives_on(built, name, source):
    """No exception can be unwound through a return probe: operator new must not have one."""
    usable(source)
    path = built("throws", THROWS, "g++", "-std=c++17")
    with program(path, env={"LD_PRELOAD": library(name)} if name else {}, lines=0) as child:
        stacks, total, said = leaks(child, "--source", source)
    assert said.split()[0] == "4"
    found = {
        names(r)[0]: r["bytes"] for r in stacks if names(r)[0] in ("kept()", "array()", "main")
    }
    assert found == {"kept()": 30000, "array()": 20000}
    assert total["lost"] == dict.fromkeys(total["lost"], 0)


@pytest.mark.guest
@pytest.mark.parametrize("source", ["session", "multi", "perf", "functions"])
@pytest.mark.parametrize("name", [None, "libjemalloc.so.2"])
def test_children_and_others_that_throw_live_on(built, name, source):
    """Probes that are bound to one process are hit in its children, too, and in each that another
    memleak traces.
    """
    usable(source)
    path, env = (
        built("forks", FORKS, "g++", "-std=c++17"),
        {"LD_PRELOAD": library(name)} if name else {},
    )
    with program(path, env=env, lines=0) as other, program(path, env=env, lines=0) as child:
        second = Traced("-v", "--source", source, "-p", str(other.pid), "100")
        said = leaks(child, "--source", source)[2]
        second.end()
    assert said == "0\n"


@pytest.mark.guest
@pytest.mark.skipif(os.uname().machine != "aarch64", reason="RETAA is an instruction of arm64")
def test_returns_that_cannot_be_probed(built):
    """Of an operator new that returns by RETAA, the malloc inside is what is counted."""
    path = built("retaa", OWN_NEW, "g++", "-march=armv8.3-a", "-mbranch-protection=pac-ret")
    with program(path, lines=0) as child:
        stacks, _, _ = leaks(child)
    assert {names(r)[0]: r["bytes"] for r in stacks if r["bytes"] > 4096} == {"kept()": 30000}


def test_jemallocs_own_functions(built):
    path = built("je", JEMALLOC, "gcc", library("libjemalloc.so.2"))
    with program(path, lines=0) as child:
        stacks, _, said = leaks(child)
    assert int(said.split()[-1]) >= 9001
    assert sorted(r["bytes"] for r in stacks if names(r)[0] == "main") == [9001, 20000, 30000]


@needs_quiet_machine
def test_static_program(built):
    path = built("static", LEAKER, "gcc", "-static", "-pthread")
    with program(path, "malloc", str(AMOUNT)) as child:
        stacks, _, _ = leaks(child)
    assert [(r["bytes"], names(r)[:2]) for r in stacks] == [(AMOUNT, ["leak", "main"])]


@pytest.mark.parametrize(
    "source, kind, count",
    [
        pytest.param(None, "text", 39000, marks=pytest.mark.guest),
        pytest.param(None, "mapped", 2000, marks=pytest.mark.guest),
        (None, "heap", 2000),
        ("multi", "mapped", 2000),
        ("perf", "text", 39000),
        ("perf", "mapped", 2000),
        ("functions", "text", 39000),
        ("functions", "mapped", 2000),
    ],
)
def test_words_that_are_no_return_addresses(built, source, kind, count):
    """The stack ends where code without frame pointers had data in that register: one call site is
    one stack.
    """
    usable(source)
    path = built(
        "no_frame_pointer", case("no_frame_pointer.c"), "gcc", "-O2", "-fomit-frame-pointer"
    )
    count = count if SLOW == 1 else 1000
    with program(path, kind, str(count)) as child:
        stacks, total, said = leaks(child, *(["--source", source] if source else []))
    assert [(r["bytes"], r["allocations"], names(r)) for r in stacks] == [
        (int(said), count, ["open_sessions"])
    ]
    assert total["lost"] == dict.fromkeys(total["lost"], 0)


@pytest.mark.parametrize("source", [None, "functions"])
def test_growth_of_a_call_site_without_frame_pointers(built, source):
    usable(source)
    path = built(
        "no_frame_pointer", case("no_frame_pointer.c"), "gcc", "-O2", "-fomit-frame-pointer"
    )
    with program(path, "text", "1000000") as child:
        traced = Traced(
            "-v",
            "--growth",
            "-j",
            "-o",
            "0",
            "-p",
            str(child.pid),
            *(["--source", source] if source else []),
            ".3",
            "5",
        )
        child.stdin.write("\n")
        child.stdin.flush()
        text, _ = traced.child.communicate(timeout=60 * SLOW)
    found = [r for r in map(json.loads, text.splitlines()) if r["record"] == "stack"]
    assert found and {tuple(names(r)) for r in found} == {("open_sessions",)}
    assert (
        found[-1]["growth_bytes"] > found[0]["growth_bytes"]
        and found[-1]["growth_bytes"] % 200 == 0
    )


MAPPINGS = (
    "reserve",
    "reserved_before",
    "commit",
    "aligned",
    "middle",
    "several",
    "again",
    "flip",
    "file",
    "moved",
    "failed",
)


@pytest.mark.parametrize(
    "source, options, kind",
    [
        pytest.param(None, (), kind, marks=[pytest.mark.guest] * (kind in ("reserve", "again")))
        for kind in MAPPINGS
    ]
    + [
        (source, (), kind)
        for source in ("multi", "functions")
        for kind in ("reserve", "commit", "again")
    ]
    + [
        (None, ("-s", "512K"), "again"),
        (None, ("--combined-only",), "again"),
        (None, ("--combined-only",), "reserve"),
    ],
)
def test_what_is_mapped_and_accessible_is_outstanding(built, source, options, kind):
    """Address space is no memory, mprotect makes it some; as many bytes as the process has by
    /proc/PID/maps.
    """
    usable(source)
    path = built("mappings", case("mappings.c"), "gcc", "-pthread")
    with program(path, kind) as child:
        _, total, said = leaks(child, *(["--source", source] if source else []), *options)
    assert total["bytes"] == int(said) and total["lost"] == dict.fromkeys(total["lost"], 0)


@pytest.mark.parametrize(
    "libc", [pytest.param("glibc", marks=pytest.mark.guest), "musl", "musl static"]
)
def test_stacks_of_threads(built, libc):
    """Their pages; not the guard pages, and not what else a C library maps and cannot access."""
    if libc == "glibc":
        path = built("mappings", case("mappings.c"), "gcc", "-pthread")
    else:
        static = ["-static"] if libc.endswith("static") else []
        path = built("mappings_" + libc.replace(" ", "_"), case("mappings.c"), "musl-gcc", *static)
    with program(path, "threads") as child:
        stacks, total, said = leaks(child)
    assert sum(
        r["bytes"] for r in stacks if names(r)[0] in ("pthread_create", "__pthread_create_2_1")
    ) == int(said)
    assert total["bytes"] - int(said) < 8192  # glibc's thread-local storage
    assert total["lost"] == dict.fromkeys(total["lost"], 0)


@pytest.mark.parametrize(
    "options", [(), ("-s", "512K"), ("-z", "1000"), ("--combined-only",), ("--source", "functions")]
)
@pytest.mark.parametrize("name", [None, "libjemalloc.so.2", "libtcmalloc_minimal.so.4", "musl"])
def test_threads_that_only_free(built, name, options):
    """What an allocator maps at a thread's first free is its own, and so is what it maps in an
    unsampled call.
    """
    if "functions" in options:
        usable("functions")
    if name == "musl":
        path, env = built("consumers_musl", case("consumers.c"), "musl-gcc"), {}
    else:
        path = built("consumers", case("consumers.c"), "gcc", "-pthread")
        env = {"LD_PRELOAD": library(name)} if name else {}
    with program(path, env=env) as child:
        stacks, total, said = leaks(child, *options)
    large = [r for r in stacks if r["bytes"] > 8192]
    assert len(large) == 1 and large[0]["allocations"] == 8
    assert 0 <= large[0]["bytes"] - 8 * int(said) < 8 * 8192  # musl adds its thread-local storage
    assert total["lost"] == dict.fromkeys(total["lost"], 0)


@pytest.mark.parametrize(
    "source", [pytest.param(None, marks=pytest.mark.guest), "multi", "perf", "functions"]
)
def test_an_allocator_that_is_left_by_siglongjmp(built, source):
    usable(source)
    with program(built("longjmp", case("longjmp.c"), "gcc"), lines=0) as child:
        stacks, total, said = leaks(child, *(["--source", source] if source else []))
    assert said == "done\n"
    assert sorted(r["bytes"] for r in stacks if names(r)[0] == "kept") == [4, 30, 200, 1000]
    assert total["lost"] == dict(dict.fromkeys(total["lost"], 0), returns_missed=2)


@pytest.mark.parametrize("source", [None, "functions"])
def test_threads(leaker, source):
    usable(source)
    with program(leaker, "threads", "1") as child:
        stacks, _, said = leaks(child, *(["--source", source] if source else []))
    assert sum(r["bytes"] for r in stacks if names(r)[0] == "many") == int(said)
    assert sum(r["allocations"] for r in stacks if names(r)[0] == "many") == 400


def test_nothing_is_kept_of_threads_that_ended(leaker):
    """In the source that has no task storage, which the kernel would free."""
    usable("functions")
    args = ["--source", "functions", "-p"]
    with program(leaker, "threads", "1") as child:
        args = load("memleak").get_parser().parse_args([*args, str(child.pid)])
        tracer = programs.start(args, True, False)
        tracer.add(child.pid)
        tracer.discover(child.pid)
        child.stdin.write("\n")
        child.stdin.flush()
        child.stdout.readline()
        until(lambda: os.listdir(f"/proc/{child.pid}/task") == [str(child.pid)])
        threads = [struct.unpack("=I", tid)[0] for tid in tracer.program.maps["states"].keys()]
        tracer.program.close()
    assert threads == [child.pid]


@pytest.mark.parametrize("name", [None, "libjemalloc.so.2", "libtcmalloc.so.4"])
def test_threads_that_pass_addresses_around(built, name):
    """Each address is freed by one thread and soon another's: none may be lost or counted twice."""
    path = built("mixed", MIXED, "gcc", "-pthread")
    preload = {"LD_PRELOAD": library(name)} if name else {}
    with program(path, str(10000 // min(SLOW, 10)), lines=0, env=preload) as child:
        stacks, total, said = leaks(child)
    mine = [r for r in stacks if "work" in names(r)]
    assert [sum(r["bytes"] for r in mine), sum(r["allocations"] for r in mine)] == [
        int(n) for n in said.split()
    ]
    assert total["lost"] == dict.fromkeys(total["lost"], 0)


@pytest.mark.parametrize(
    "source, sampling",
    [
        (None, "-S16K"),
        ("multi", "-S16K"),
        ("functions", "-s16K"),
        (None, "-s10"),
        ("functions", "-s10"),
    ],
)
def test_sampling_is_within_its_error(leaker, source, sampling):
    usable(source)
    allocations = 1000000 // (1 if SLOW == 1 else 50)
    with program(leaker, "million", str(allocations)) as child:
        stacks, total, said = leaks(child, sampling, *(["--source", source] if source else []))
    true_bytes, true_blocks, squares = map(int, said.split())
    # The variance of the estimate, from the truth; that from the sample is too small where few of
    # the large blocks were taken.  One block in ten is, or each with p = 1 - exp(-size / 16 K), for
    # which size^2 (1 - p) / p <= 16 K size.
    variance = 9 * squares if sampling == "-s10" else 16384 * true_bytes
    assert abs(total["bytes"] - true_bytes) <= 4.5 * variance**0.5, (total, said)
    assert total["bytes_error"] < 2 * 1.96 * variance**0.5, (total, said)
    # Twice the half width of the 95 % confidence interval: one run in 17000 is outside.
    assert abs(total["allocations"] - true_blocks) <= 2 * total["allocations_error"], (total, said)
    assert total["bytes_error"] < 0.2 * true_bytes * (1 if SLOW == 1 else 8)


def test_follow_and_cgroup_see_children(leaker):
    from crisis.kernel import cgroup

    with program(leaker, "fork", str(AMOUNT)) as child:
        stacks, _, _ = leaks(child, "--follow")
        found = {
            r["pid"] == child.pid: r["bytes"] for r in stacks if names(r) and "main" in names(r)
        }
    assert found == {True: AMOUNT, False: 2 * AMOUNT}
    with program(leaker, "fork", str(AMOUNT)) as child:
        stacks, _, _ = leaks(child)
        assert {r["pid"] for r in stacks} == {child.pid}  # not without it
    points = [point for point, _, _ in cgroup.mounts()]
    if not points:
        pytest.skip("no cgroup file system is mounted")
    directory = f"{points[-1]}/crisis-memleak-{os.getpid()}"
    os.mkdir(directory)
    try:
        with (
            program(leaker, "malloc", str(AMOUNT)) as child,
            program(leaker, "malloc", "777") as other,
        ):
            with open(directory + "/cgroup.procs", "w") as f:
                f.write(str(child.pid))
            traced = Traced("-v", "-j", "-o", "0", "--cgroup", directory, "100")
            for one in child, other:
                one.stdin.write("\n")
                one.stdin.flush()
                one.stdout.readline()
            text, _ = traced.end()
        found = [
            (r["pid"], r["bytes"])
            for r in map(json.loads, text.splitlines())
            if r["record"] == "stack"
        ]
        assert found == [(child.pid, AMOUNT)]
        # its processes have ended, or are in other cgroups; others may come
        begin = time.monotonic()
        result = run("memleak", "--cgroup", directory, ".5", "2")
        assert (
            result.returncode == 0
            and time.monotonic() - begin > 1
            and result.stdout.count("Top 10") == 2
        )
    finally:
        deadline = time.monotonic() + 10
        while True:
            try:
                os.rmdir(directory)
                break
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.1)


@pytest.mark.parametrize("how", ["exec", "thread_exec"])
def test_exec_drops_what_was(leaker, how):
    with program(leaker, how, str(AMOUNT), "x", "5000") as child:
        traced = Traced("-v", "-j", "-o", "0", "-p", str(child.pid), ".3")
        child.stdin.write("\n")
        child.stdin.flush()
        child.stdout.readline()
        time.sleep(1 * min(SLOW, 5))  # the new program is found
        child.stdin.write("\n")
        child.stdin.flush()
        child.stdout.readline()
        text, _ = traced.end()
    records = [json.loads(line) for line in text.splitlines()]
    last = [r for r in records[-10:] if r["record"] == "stack"]
    assert AMOUNT not in [r["bytes"] for r in last]
    assert 5000 in [r["bytes"] for r in last if "leak" in names(r)]
    assert records[-1]["lost"]["frees_missed"] == 0  # nothing is probed twice


def test_growth(leaker):
    with program(leaker, "grow", "1") as child:
        child.stdin.write("\n")
        child.stdin.flush()
        result = run("memleak", "-p", str(child.pid), "--growth", "-j", "-o", "0", ".5", "4")
    records = [json.loads(line) for line in result.stdout.splitlines()]
    reports, rows = 0, []
    for record in records:
        if record["record"] == "total":
            reports += 1
        else:
            rows.append((reports, record))
    assert rows and {number for number, _ in rows} <= {2, 3}
    for _, record in rows:
        assert (
            names(record)[0] == "main"
            and record["growth_bytes"] > 0
            and record["growth_bytes"] % 1000 == 0
        )


def test_age_and_size_filters_and_tables(leaker):
    with program(leaker, "malloc", str(AMOUNT)) as child:
        assert leaks(child, "-z", "30001")[0] == []
    with program(leaker, "malloc", str(AMOUNT)) as child:
        assert leaks(child, "-Z", "29999")[0] == []
    with program(leaker, "malloc", str(AMOUNT)) as child:
        assert [r["bytes"] for r in leaks(child, "-z", "30000", "-Z", "30000")[0]] == [AMOUNT]
    with program(leaker, "malloc", str(AMOUNT)) as child:
        assert leaks(child, "-o", "60000")[0] == []
    with program(leaker, "malloc", str(AMOUNT)) as child:
        stacks, _, said = leaks(child, "-a")
        assert [a["address"] for a in stacks[0]["allocs"]] == [said.strip()]
    with program(leaker, "million", "2000") as child:
        _, total, said = leaks(child, "--entries", "64")
    assert total["lost"]["blocks_full"] > 0 and total["allocations"] <= 64 + 16


def test_combined_only_agrees(leaker):
    with program(leaker, "million", "20000") as child:
        stacks, total, said = leaks(child, "--combined-only")
    assert [total["bytes"], total["allocations"]] == list(map(int, said.split()))[:2]


def test_trace(leaker):
    with program(leaker, "freed", str(AMOUNT)) as child:
        traced = Traced("-v", "-t", "-p", str(child.pid))
        child.stdin.write("\n")
        child.stdin.flush()
        address = child.stdout.readline().strip()
        text, _ = traced.end()
    assert re.search(rf"malloc +{AMOUNT} {address}$", text, re.M)
    assert re.search(r"malloc +123456 0x\w+$", text, re.M) and re.search(
        r"free of malloc +123456 0x\w+$", text, re.M
    )


def test_trace_of_mappings(built):
    path = built("mappings", case("mappings.c"), "gcc", "-pthread")
    for kind, expected in (
        ("reserve", {("mprotect", 1 << 20), ("mprotect", 2 << 20)}),
        (
            "middle",
            {("mmap", 1 << 20), ("munmap", 512 << 10), ("mmap", 64 << 10), ("munmap", 16 << 10)},
        ),
    ):
        with program(path, kind) as child:
            traced = Traced("-v", "-t", "-j", "-p", str(child.pid))
            child.stdin.write("\n")
            child.stdin.flush()
            child.stdout.readline()
            text, _ = traced.end()
        found = {
            (r["call"], r["bytes"]): r
            for r in map(json.loads, text.splitlines())
            if r["tid"] == child.pid
        }
        assert expected <= set(found)
        assert all(
            r["record"] == ("free" if r["call"] == "munmap" else "alloc") for r in found.values()
        )
        assert all(
            set(r["stack"]) & {"protect", "map"}
            for r in found.values()
            if r["call"] in ("mprotect", "mmap")
        )


def test_folded_and_text_of_hostile_names(leaker):
    with program(leaker, "malloc", str(AMOUNT), "hostile") as child:
        time.sleep(0.1)
        traced = [
            Traced("-v", "-o", "0", "--follow", *mode, "-p", str(child.pid), "100")
            for mode in (["--folded"], ["-j"], [])
        ]
        child.stdin.write("\n")
        child.stdin.flush()
        child.stdout.readline()
        folded, records, text = [t.end()[0] for t in traced]
    assert (
        re.search(r"^(\S+;)?.*main;leak 30000$", folded, re.M)
        and "\x1b" not in folded + records + text
    )
    assert json.loads(records.splitlines()[0])["comm"] == '\x1b[31m\n"\\\\xff'
    assert re.search(r"^\t30000 bytes in 1 allocations from stack$", text, re.M)
    assert re.search(r"^\t\t0x[0-9a-f]{16}\tleak\+0x[0-9a-f]+ \[leaker\]$", text, re.M)


def test_the_target_ends(leaker):
    with program(leaker, "malloc", str(AMOUNT)) as child:
        traced = Traced("-v", "-p", str(child.pid), "100")
        child.communicate("\n\n")
        begin = time.monotonic()
        text, _ = traced.child.communicate(timeout=60 * SLOW)
    assert traced.child.returncode == 0 and time.monotonic() - begin < 10 * SLOW
    assert "\t30000 bytes in 1 allocations" in text and re.search(r"leak\+0x\w+ \[leaker\]", text)


@pytest.mark.guest
def test_kernel_mode_sees_a_leak_of_its_own_making():
    """Pipes: an open one holds kernel memory, a closed one does not."""
    traced = Traced("-v", "-j", "-o", "0", "-T", "100000", "-z", "512", "100")
    pipes = []
    try:
        for _ in range(300):
            pipes.append(os.pipe())
        text, _ = traced.end()
    finally:
        for pair in pipes:
            os.close(pair[0])
            os.close(pair[1])
    rows = [r for r in map(json.loads, text.splitlines()) if r["record"] == "stack" and r["stack"]]
    count = sum(r["allocations"] for r in rows if "alloc_pipe_info" in names(r))
    assert 300 <= count <= 1300, count  # of the info, its array of buffers, inodes and files
    traced = Traced("-v", "-j", "-o", "0", "-T", "100000", "-z", "512", "100")
    for _ in range(300):
        for fd in os.pipe():
            os.close(fd)
    text, _ = traced.end()
    rows = [r for r in map(json.loads, text.splitlines()) if r["record"] == "stack" and r["stack"]]
    assert sum(r["allocations"] for r in rows if "alloc_pipe_info" in names(r)) <= 30


def test_percpu():
    result = run("memleak", "--percpu", "-j", ".2", "1")
    if result.returncode == 69:
        pytest.skip(result.stderr.strip())
    assert (
        result.returncode == 0 and json.loads(result.stdout.splitlines()[-1])["record"] == "total"
    )


@pytest.mark.guest
def test_without_root(leaker):
    result = as_nobody("memleak", "-p", str(os.getpid()), "1", "1")
    assert result.returncode == 77 and result.stderr.count("\n") == 1 and "CAP_BPF" in result.stderr


def test_errors_and_exits(leaker):
    for args, status, words in (
        (["-p", "999999999"], 1, "no such process"),
        (["-c", "/no/such/program"], 1, "cannot run"),
        (["-c", "/sys/fs/cgroup"], 2, "use --cgroup"),
        (["-c", ""], 2, "empty"),
        (["-O", "x"], 2, "need -p"),
        (["--percpu", "-p", "1"], 2, "kernel"),
        (["-z", "9", "-Z", "1"], 2, "larger"),
        (["-s", "0"], 2, "between"),
        (["-o", "-1"], 2, "older"),
        (["--source", "kernel", "-p", str(os.getpid())], 2, "not for processes"),
        (["--entries", "4294967297"], 2, "134217728 entries"),
        (["--entries", "2147483647"], 2, "134217728"),
        (["--cgroup", "/no/such"], 1, "no such cgroup"),
    ):
        result = run("memleak", *args, "1", "1")
        assert (
            result.returncode == status and result.stdout == "" and result.stderr.count("\n") == 1
        ), result
        assert words in result.stderr
    shell = f"{tool('memleak')} -p {os.getpid()} %s; echo status ${{PIPESTATUS[0]}}"
    full = subprocess.run(
        ["bash", "-c", shell % ".1 1 2>&1 >/dev/full"], stdout=subprocess.PIPE, timeout=20 * SLOW
    )
    assert b"write error: No space left on device\nstatus 1" in full.stdout
    head = subprocess.run(
        ["bash", "-c", shell % "60 | head -0 2>&1"], stdout=subprocess.PIPE, timeout=30 * SLOW
    )
    assert head.stdout.split()[-1] in (b"0", b"141")


def test_peak_memory_of_the_tool_itself(leaker):
    with program(leaker, "malloc", str(AMOUNT)) as child:
        traced = Traced("-v", "-o", "0", "-p", str(child.pid), ".3")
        child.stdin.write("\n")
        child.stdin.flush()
        traced.child.stdout.readline()
        traced.child.stdout.readline()
        peak = peak_memory(traced.child.pid)
        traced.end()
    assert peak <= 20 << 20


# Options of libbpf-tools' memleak, and of bcc's


@pytest.mark.guest
def test_options_of_libbpf_tools(leaker):
    with program(leaker, "malloc", str(AMOUNT)) as child:
        stacks, total, _ = leaks(
            child, "-C", "-F", "--perf-max-stack-depth", "1", "--stack-storage-size", "64"
        )
    assert [(names(r), r["bytes"]) for r in stacks] == [(["leak"], AMOUNT)] and total["lost"][
        "stacks_full"
    ] == 0
    with program(leaker, "malloc", str(AMOUNT)) as child:
        stacks, _, _ = leaks(child, "--perf-max-stack-depth", "1000")  # more than is recorded
    assert names(stacks[0])[:2] == ["leak", "main"]
    assert run("memleak", "-P", "-p", "1", "1", "1").stderr.startswith(
        "memleak: --percpu is for the kernel"
    )


def test_room_for_stacks(leaker):
    """Five call sites."""
    for room, lost in ("1", True), ("64", False):
        with program(leaker, "freed", str(AMOUNT)) as child:
            _, total, _ = leaks(child, "--stack-storage-size", room)
        assert (total["lost"]["stacks_full"] > 0) == lost, total


@pytest.mark.parametrize("name", ["c", "libc", "libc.so.6"])
def test_allocators_of_one_object(leaker, name):
    with program(leaker, "malloc", str(AMOUNT)) as child:
        stacks, _, _ = leaks(child, "-O", name)
    assert [r["bytes"] for r in stacks if names(r)[:1] == ["leak"]] == [AMOUNT]
    result = run("memleak", "-O", "libno.so.1", "-p", str(os.getpid()), "1", "1")
    assert result.returncode == 1 and "no allocator functions were found" in result.stderr


PIPES = r"""
import os, sys, threading
def work():
    open("/proc/thread-self/comm", "w").write("pipes")
    print(os.getpid(), threading.get_native_id(), flush=True)
    sys.stdin.readline()
    for _ in range(20):
        for fd in os.pipe():
            os.close(fd)
    print(flush=True)
    sys.stdin.readline()
threading.Thread(target=work).start()
"""


@pytest.mark.guest
def test_kernel_mode_prints_who_calls():
    """-t, of a thread that makes and closes pipes."""
    with program("/usr/bin/python3", "-c", PIPES) as child:
        traced = [Traced("-v", "-t", "-z", "512", *mode) for mode in ([], ["-j"])]
        child.stdin.write("\n")
        child.stdin.flush()
        child.stdout.readline()
        text, records = [one.end()[0] for one in traced]
        who = tuple(map(int, child.said[0].split()))
    for call in r"k\w+", r"free of k\w+":
        assert (
            len(re.findall(rf"^[\d:.]+ +{who[0]} +{who[1]} +pipes +{call} +\d+ 0x", text, re.M))
            >= 20
        )
    assert not re.search(r"^[\d:.]+ +0 +[1-9]", text, re.M)
    made = [
        r for r in map(json.loads, records.splitlines()) if "alloc_pipe_info" in (r["stack"] or ())
    ]
    assert len([r for r in made if (r["pid"], r["tid"], r["comm"]) == (*who, "pipes")]) >= 20


# --unwind

ANYWHERE = r"""
#define _GNU_SOURCE
#include <alloca.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* A block from each position of the stack pointer in a page, up to 3 pages below its end. */
__attribute__((noinline)) static void *innermost(long down)
{
	char *room = alloca(down);
	memset(room, 0, down);
	void *p = malloc(1000003);
	*(volatile char *)room = 1;
	return p;
}

__attribute__((noinline)) static void *thread(void *unused)
{
	for (long down = 16; down < 3 * 4096; down += 48)
		if (!innermost(down))
			abort();
	return 0;
}

int main(void)
{
	char c;
	size_t size = 1 << 16;
	pthread_t t;
	pthread_attr_t attributes;
	char *stack = mmap(0, size + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	mprotect(stack + size, 4096, PROT_NONE);        /* the copy cannot go on behind it */
	pthread_attr_init(&attributes);
	pthread_attr_setstack(&attributes, stack, size);
	printf("%d\n", getpid());
	fflush(stdout);
	if (read(0, &c, 1) < 0) return 1;
	pthread_create(&t, &attributes, thread, 0);
	pthread_join(t, 0);
	puts("done");
	fflush(stdout);
	return read(0, &c, 1) < 0;
}
"""
LATE_LIBRARY = r"""
#include <stdlib.h>
__attribute__((noinline)) static void *inner(size_t size, int deeper)
{
	void *volatile p = deeper ? inner(size, deeper - 1) : malloc(size);
	return p;
}
void *late(size_t size) { void *volatile p = inner(size, 3); return p; }
"""
# Loads copies of a library; first writes random bytes into the given parts of their files, if there
# are any.
LATE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

__attribute__((noinline)) static int load(const char *path, long size)
{
	void *library = dlopen(path, RTLD_NOW);
	void *(*late)(size_t) = library ? (void *(*)(size_t))dlsym(library, "late") : 0;
	void *volatile p;

	if (!late) { fprintf(stderr, "%s\n", dlerror()); exit(1); }
	p = late(size);
	return p != 0;
}

static void spoil(const char *path, long start, long length)
{
	int fd = open(path, O_RDWR);

	for (long i = 0; i < length; i++) {
		unsigned char byte = random();
		if (random() % 4 == 0 && pwrite(fd, &byte, 1, start + i) != 1) exit(1);
	}
	close(fd);
}

int main(int argc, char **argv)
{
	char c;
	static char path[4096], command[9000];

	printf("%d\n", getpid());
	fflush(stdout);
	if (read(0, &c, 1) < 0) return 1;
	for (int i = 0; i < atoi(argv[2]); i++) {
		snprintf(path, sizeof(path), "%s.%d", argv[1], i);
		snprintf(command, sizeof(command), "cp %s %s", argv[1], path);
		if (system(command)) return 1;
		srandom(i);
		for (int k = 3; k + 1 < argc; k += 2)
			spoil(path, atol(argv[k]), atol(argv[k + 1]));
		if (!load(path, 1000003 + i)) return 1;
		usleep(atol(getenv("PAUSE")));
	}
	puts("done");
	fflush(stdout);
	return read(0, &c, 1) < 0;
}
"""


def shown(records):
    """[(names from the innermost frame, why the walk ended)]."""
    return [([frame["name"] for frame in r["stack"]], r["stack_end"]) for r in records]


def unwound(child, *args):
    """The stacks of the blocks of a million bytes that a program of this file allocates, all of
    them sampled.
    """
    stacks, total, said = leaks(child, "--unwind", "-s", "1", "-z", "1000003", *args)
    assert total["lost"]["stacks_missed"] == 0, total
    return stacks, said


@pytest.mark.guest
@pytest.mark.parametrize("source", ["session", "multi", "perf", "functions"])
def test_unwind_without_frame_pointers(built, source):
    usable(source)
    path = built(
        "no_frame_pointer", case("no_frame_pointer.c"), "gcc", "-O2", "-fomit-frame-pointer"
    )
    with program(path, "text", "20000") as child:
        stacks, total, said = leaks(child, "--unwind", "-S", "16K", "--source", source)
    ((found, end),) = shown(stacks)
    assert found[:2] == ["open_sessions", "main"] and (found[-1], end) == ("_start", None)
    assert (
        abs(stacks[0]["bytes"] - int(said)) <= 2 * stacks[0]["bytes_error"] and int(said) == 4000000
    )
    assert total["lost"]["stacks_missed"] == 0


@pytest.mark.guest
def test_unwind_from_any_stack_pointer(built):
    """The copy is made page by page where the stack ends."""
    path = built("anywhere", ANYWHERE, "gcc", "-pthread", "-fomit-frame-pointer")
    with program(path) as child:
        stacks, _ = unwound(child)
    # of others, one makes a thread's arena
    stacks = [r for r in stacks if r["stack"][0]["name"] == "innermost"]
    assert [r["allocations"] for r in stacks] == [256], stacks
    ((found, end),) = shown(stacks)
    # start_thread, clone3
    assert found[:2] == ["innermost", "thread"] and len(found) == 4 and end is None


@pytest.mark.guest
def test_unwind_through_libraries_loaded_since(built, tmp_path):
    """Each is mapped, and called, between two reports."""
    library = built("late.so", LATE_LIBRARY, "gcc", "-shared", "-fPIC", "-fomit-frame-pointer")
    path = built("late", LATE, "gcc", "-fomit-frame-pointer", "-ldl")
    # The map is read at most 1/20 of the time.
    with program(path, library, "5", env={"PAUSE": str(50000 * SLOW)}) as child:
        stacks, said = unwound(child)
    assert said == "done\n" and len(stacks) == 5
    for found, end in shown(stacks):
        assert found[:7] == ["inner"] * 4 + ["late", "load", "main"] and (found[-1], end) == (
            "_start",
            None,
        ), (found, end)


def test_unwind_of_hostile_tables(built):
    """A process that writes random bytes into the .eh_frame and .eh_frame_hdr of the libraries that
    it calls.
    """
    from crisis.symbols.elf import Elf

    library = built("late.so", LATE_LIBRARY, "gcc", "-shared", "-fPIC", "-fomit-frame-pointer")
    path = built("late", LATE, "gcc", "-fomit-frame-pointer", "-ldl")
    with open(library, "rb") as f:
        sections = Elf(f.read()).sections
    places = [str(n) for name in (b".eh_frame", b".eh_frame_hdr") for n in sections[name][1:3]]
    for parts in places, places[:2], places[2:]:
        with program(path, library, "30", *parts, env={"PAUSE": "20000"}) as child:
            stacks, said = unwound(child)
        assert said == "done\n" and sum(r["allocations"] for r in stacks) == 30
        ends = [end for found, end in shown(stacks) if found[0] == "inner"]
        assert len(ends) >= 10 and "bad_table" in ends, ends


@pytest.mark.parametrize(
    "sampling, command",
    [
        (
            "-s1",
            [
                "dash",
                "-c",
                'for i in 1 2 3 4 5 6 7 8 9; do for j in 1 2 3 4 5 6; do eval "x$i$j=foo$i"; '
                "done; done",
            ],
        ),
        ("-S256", ["git", "--no-pager", "log", "--stat", "-n", "5"]),
    ],
)
def test_unwind_of_programs_without_frame_pointers(sampling, command):
    if not shutil.which(command[0]):
        pytest.skip(f"{command[0]} is not installed")
    if (
        command[0] == "git"
        and subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL).returncode
    ):
        pytest.skip("not in a repository")
    quoted = " ".join(f"'{word}'" for word in command)
    result = run(
        "memleak", "--unwind", sampling, "-T", "1000", "-j", "-o", "0", "-c", quoted, cwd=ROOT
    )
    assert result.returncode == 0, result.stderr
    records = [
        json.loads(line) for line in result.stdout.splitlines() if line.startswith('{"time"')
    ]
    rows = [r for r in records if r["record"] == "stack" and r["stack"]]
    whole = [r for r in rows if r["stack_end"] is None]
    # A library's constructor is called by the dynamic loader.
    modules = {os.path.basename(r["stack"][-1]["module"]) for r in whole}
    assert all(
        name in (os.path.basename(os.path.realpath(shutil.which(command[0]))),)
        or name.startswith("ld-linux")
        for name in modules
    ), modules
    assert len(whole) >= 5 and len(whole) >= 0.9 * len(rows), [r["stack_end"] for r in rows]


GDB_FRAMES = r"""
import gdb, os
frame, found = gdb.newest_frame(), []
while frame is not None and frame.is_valid():
    if frame.type() in (gdb.NORMAL_FRAME, gdb.SIGTRAMP_FRAME):
        found.append(str(frame.pc()))
    frame = frame.older()
print("FRAMES", *found)
"""


def test_unwind_as_gdb(tmp_path):
    """Python calls malloc, then pause, from one place: gdb's stack, less what is in pause, is ours.

    The calls before make sure that Python has replaced the instruction by a faster one, if it does.
    """
    if not shutil.which("gdb"):
        pytest.skip("gdb is not installed")
    code = (
        "import ctypes, sys\nlibc = ctypes.CDLL(None)\ndef work(n):\n if n: return work(n - 1)\n"
        " for function in [libc.getppid] * 5000 + [libc.malloc, libc.pause]: "
        "function(ctypes.c_size_t(1000003))\n"
        "print(flush=True)\nsys.stdin.readline()\n[work(n) for n in [3]]"
    )
    with program("/usr/bin/python3", "-I", "-c", code) as child:
        options = f"-v -j -o 0 --unwind -s 1 -z 1000003 -p {child.pid} 100"
        traced = Traced(*options.split())
        child.stdin.write("\n")
        child.stdin.flush()
        # pause(2), or on arm64 ppoll(2)
        until(lambda: open(f"/proc/{child.pid}/syscall").read().split()[0] in ("34", "73"))
        stacks = [
            r for r in map(json.loads, traced.end()[0].splitlines()) if r["record"] == "stack"
        ]
        (tmp_path / "frames.py").write_text(GDB_FRAMES)
        result = subprocess.run(
            [
                "gdb",
                "-nx",
                "-q",
                "-batch",
                "-ex",
                "set debuginfod enabled off",
                "-ex",
                "set backtrace past-main on",
                "-ex",
                "set backtrace past-entry on",
                "-p",
                str(child.pid),
                "-x",
                str(tmp_path / "frames.py"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    frames = re.search(r"^FRAMES (.*)$", result.stdout, re.M)
    if not frames:
        pytest.skip(
            f"gdb cannot attach, or has no Python: {' '.join(result.stdout.split())[-300:]}"
        )
    expected = [int(word) for word in frames.group(1).split()]
    found = [int(frame["address"], 16) for frame in stacks[0]["stack"]]
    assert len(stacks) == 1 and stacks[0]["stack_end"] is None
    assert (
        len(found) >= 8
        and 1 <= len(expected) - len(found) <= 4
        and expected[-len(found) :] == found
    )


def test_unwind_through_compiled_code(tmp_path):
    """node's JavaScript frames have no CFI; between native ones the frame pointer is followed."""
    if not shutil.which("node"):
        pytest.skip("node is not installed")
    code = (
        "const zlib = require('zlib'), keep = []; function leaky(n) { "
        "keep.push(zlib.createDeflate({level: 9})); }"
        "for (let i = 0; i < 1000; i++) leaky(i); setTimeout(() => 0, 100000)"
    )
    result = run(
        "memleak",
        "--unwind",
        "-S",
        "64K",
        "-T",
        "1000",
        "-j",
        "-o",
        "0",
        "-c",
        f'node --perf-basic-prof --always-sparkplug -e "{code}"',
        "6",
        "1",
        timeout=120 * SLOW,
        cwd=str(tmp_path),
    )
    assert result.returncode == 0, result.stderr
    rows = [
        r
        for r in map(json.loads, result.stdout.splitlines())
        if r["record"] == "stack" and r["stack"]
    ]
    through = [r for r in rows if any("leaky" in (frame["name"] or "") for frame in r["stack"])]
    whole = [r for r in through if r["stack_end"] is None and r["stack"][-1]["name"] == "_start"]
    assert through and len(whole) >= 0.9 * len(through), shown(through)


def test_unwind_follows_fork_and_exec(leaker):
    with program(leaker, "fork", str(1000003)) as child:
        stacks, total, _ = leaks(child, "--unwind", "-s", "1", "-z", "1000003", "--follow")
    assert {r["pid"] == child.pid: r["bytes"] for r in stacks} == {True: 1000003, False: 2000006}
    assert all(found[-1] == "_start" and end is None for found, end in shown(stacks))
    with program(leaker, "exec", str(1000003), "x", "1000005") as child:
        options = f"-v -j -o 0 --unwind -s 1 -z 1000003 -p {child.pid} .3"
        traced = Traced(*options.split())
        for _ in range(2):
            child.stdin.write("\n")
            child.stdin.flush()
            child.stdout.readline()
            time.sleep(1 * min(SLOW, 5))
        records = [json.loads(line) for line in traced.end()[0].splitlines()]
    last = [r for r in records[-3:] if r["record"] == "stack"]
    assert [r["bytes"] for r in last] == [1000005] and shown(last)[0][0][:2] == ["leak", "main"]
    assert shown(last)[0][0][-1] == "_start"


def test_unwind_and_growth(leaker):
    """A stack has one key from report to report."""
    with program(leaker, "grow", "1") as child:
        child.stdin.write("\n")
        child.stdin.flush()
        result = run(
            "memleak",
            "--unwind",
            "-s",
            "1",
            "-p",
            str(child.pid),
            "--growth",
            "-j",
            "-o",
            "0",
            ".5",
            "4",
        )
    rows = [r for r in map(json.loads, result.stdout.splitlines()) if r["record"] == "stack"]
    assert rows and all(names(r)[0] == "main" and r["growth_bytes"] > 0 for r in rows)


@pytest.mark.parametrize(
    "args, words",
    [
        (["--unwind"], "--unwind needs -p, -c or --cgroup"),
        (["--unwind", "-p", "1", "--combined-only"], "--unwind is not for --combined-only"),
        (["--unwind", "-p", "1", "-t"], "--unwind is not for --trace"),
    ],
)
def test_unwind_usage(args, words):
    result = run("memleak", *args, "1", "1")
    assert (
        result.returncode == 2
        and result.stderr.startswith("memleak: " + words)
        and result.stderr.count("\n") == 1
    )


@pytest.mark.guest
def test_the_report_says_where_frame_pointers_end(built, leaker):
    path = built(
        "no_frame_pointer", case("no_frame_pointer.c"), "gcc", "-O2", "-fomit-frame-pointer"
    )
    for mode in ["-j"], []:
        with program(path, "text", "100") as child:
            traced = Traced("-v", *mode, "-o", "0", "-p", str(child.pid), "100")
            child.stdin.write("\n")
            child.stdin.flush()
            child.stdout.readline()
            text, errors = traced.end()
        if mode:
            rows = [r for r in map(json.loads, text.splitlines()) if r["record"] == "stack"]
            assert shown(rows) == [(["open_sessions"], "no_frame_pointer")] and errors == ""
        else:
            assert re.search(
                r"open_sessions.*\n\t\t\[the walk ended in code without frame pointers\]$",
                text,
                re.M,
            )
            assert (
                errors.count("1 of the 1 stacks shown end in code without frame pointers: --unwind")
                == 1
            )
    with program(leaker, "malloc", str(AMOUNT)) as child:
        stacks, _, _ = leaks(child)
    assert [r["stack_end"] for r in stacks if r["bytes"] == AMOUNT] == [None]
