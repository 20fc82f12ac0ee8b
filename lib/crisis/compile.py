# SPDX-License-Identifier: GPL-2.0-or-later
"""From C to a compiled object: the programs' text, bcc in a child process, and the program cache.

bcc is the compiler and only that: LLVM's memory goes away with the child.
What is kept is an Object: instructions, map definitions, BTF ids.

The cache holds code that root will load into the kernel.  So an entry is used
only from a directory chain that root owns and nobody else can write (0700 or
0755), is opened without following links, must be root's own regular file with
mode 0600, and must carry the checksum of its contents.  Anything else is ignored and rebuilt.
"""

import os
import stat
import sys
import time

from . import __version__
from .errors import Error, NotPermitted, Stopped, Unavailable

try:
    from _blake2 import blake2b         # hashlib would load OpenSSL for 3 ms
except ImportError:
    from hashlib import blake2b

__all__ = ["Source", "Object", "Compiler", "NoCompiler", "enumeration", "program_text", "build", "cached", "keep",
           "wait", "sweep", "store", "load", "key", "unpack", "CACHE", "PROGRAMS"]

CACHE = "/var/cache/crisis-tools"
PROGRAMS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "progs")    # the C of all commands
_MAGIC = b"crisis-tools object 4\n"
_DIGEST = 32
_LIMIT = 1 << 24        # bytes; no object comes near
_PYTHON = "/usr/bin/python3"    # as in the interpreter line; sys.executable follows $PYTHONEXECUTABLE
_TIME_LIMIT = 300       # seconds; a compilation takes half of one where nothing is wrong
SCRATCH = "/run", "/dev/shm", "/tmp"    # for the header files: memory first, since the disk may be what is on fire
SCRATCH_PREFIX = ".crisis-headers-"     # of nothing else, since what has no lock is removed


def enumeration(prefix, names):
    """The macros {PREFIX_NAME: index} of a sequence of names, for `defines` of Source."""
    return {"%s_%s" % (prefix, name.upper()): index for index, name in enumerate(names)}


def program_text(name, directory=None):
    """The text of a C file with each file that it includes by #include "NAME" in its place, once.

    bcc rewrites what uses its maps only in the main file, not in included ones.  #line directives let the
    compiler's messages name the files.
    directory: where the files are, PROGRAMS if None.  Raises OSError.
    """
    directory = directory or PROGRAMS
    with open(os.path.join(directory, name), encoding="utf-8") as f:
        return _included(name, f.read(), directory, {name})


def _included(name, text, directory, done):
    """The text of `name` with what it includes; done: names of files that have been included."""
    own, *others = ("\n" + text).split('\n#include "')
    parts, line = ['#line 1 "%s"' % name, own], own.count("\n")
    for piece in others:
        included, _, rest = piece.partition('"')
        if included not in done:
            done.add(included)
            with open(os.path.join(directory, included), encoding="utf-8") as f:
                parts += ["\n", _included(included, f.read(), directory, done)]
        parts += ['\n#line %d "%s"' % (line + 2, name), rest]
        line += 1 + rest.count("\n")
    return "".join(parts)


class Source:
    """What a command gives to be compiled.

    name: "command.variant", the cache entry's name and what -v calls it.
    file: the program's file in PROGRAMS, in bcc's dialect of C.  It is read when its text is needed.
    text: the C text itself in place of a file.
    points: one tuple for each place to attach to, of candidates in order of
        preference, each "kind/target:function"; `Program.attach` lists the kinds.
        A last candidate "none" lets the program do without the place.
    params: names that the text uses as PARAM(name).
    counters: names that the text uses as COUNT(name).
    defines: {macro: value} of this variant.
    has: {macro: ("struct.member", first release such as "5.14")}: the macro is
        defined where the kernel has the member; the release decides only where
        there is no BTF.
    requires: "struct.member" strings, or names of types, enumeration constants or functions (or tuples of
        which any one will do), that the kernel must have.
    constants: enumeration constants whose values the command wants; "PREFIX*" for all that begin so.
    arguments: "tracepoint.argument" strings; the text reads one with ARG(ctx, tracepoint, argument)
        wherever the running kernel's tracepoint has it.  The kernel must have BTF, and all of them but those
        that end in "?": where it lacks one, the macro ARG_tracepoint_argument is not defined.
    kfuncs: kernel functions that the text declares by KFUNC(result type, name, argument types...); and calls.
        The kernel must have all of them but those that end in "?": where it lacks one, the macro KFUNC_name is
        not defined.
    fields: "category:tracepoint.field" strings; the parameter tracepoint_field is where that field is in the
        tracepoint's record, for read_field() of field.bpf.h.  The kernel must have all of them but those that end in
        "?", and those of tracepoints that do: the parameter is 0 for one that it lacks.
    probes: "kind:function" strings, of functions that the command itself attaches when it runs, with
        Program.attach_uprobe and the like; `Program.attach` loads them.
    """

    def __init__(self, name, file=None, points=(), params=(), counters=(), defines=None, has=None,
                 requires=(), constants=(), arguments=(), kfuncs=(), probes=(), text=None, fields=()):
        self.name, self.file, self._text, self.points = name, file, text, points
        self.fields = {text.replace("?", "").partition(":")[2].replace(".", "_"): text for text in fields}
        self.params, self.counters = (*params, *self.fields), tuple(counters)
        self.defines, self.has = defines or {}, has or {}
        self.requires, self.constants = requires, tuple(constants)
        self.arguments, self.kfuncs, self.probes = tuple(arguments), tuple(kfuncs), tuple(probes)

    @property
    def text(self):
        """The C text, with that of the files that it includes."""
        if self._text is None:
            return program_text(self.file)
        return _included(self.name, self._text, PROGRAMS, set())

    def request(self):
        """The whole of it as a JSON-able dict, in a fixed order."""
        return {"name": self.name, "text": self.text, "points": self.points, "params": self.params,
                "counters": self.counters, "defines": self.defines, "has": self.has,
                "requires": self.requires, "constants": self.constants, "arguments": self.arguments,
                "kfuncs": self.kfuncs, "probes": self.probes}


class Object:
    """A compiled program as the loader wants it.

    name; unusable: why this kernel cannot have it, or None; points, probes: as in Source;
    maps: [name, type, key size, value size, max entries, flags, key, value], where the last two are the name of a
    struct, or the layout of a number, or "-" for what records cannot have;
    layouts: {name of a struct: its layout, as text for record.Layout};
    functions: {name: (instructions, [(byte offset, map index)], [(byte offset, parameter name)])};
    ids: {"kind/target": BTF id or None}; constants: {name: value}; counters: names.
    """

    def __init__(self, meta, code):
        self.name, self.unusable = meta["name"], meta["unusable"]
        self.points, self.probes = meta["points"], meta["probes"]
        self.maps, self.layouts, self.ids = meta["maps"], meta["layouts"], meta["ids"]
        self.constants, self.counters = meta["constants"], meta["counters"]
        self.functions = {}
        at = 0
        for name, length, maps, params in meta["functions"]:
            self.functions[name] = code[at:at + length], maps, params
            at += length
        if at != len(code):
            raise ValueError("instructions are incomplete")


def _kernel_id():
    """What tells this kernel build from any other: uname and the GNU build id."""
    uname = os.uname()
    try:
        with open("/sys/kernel/notes", "rb") as f:
            notes = f.read(4096)
    except OSError:
        notes = b""
    return "\0".join((uname.release, uname.version, uname.machine)).encode() + b"\0" + notes


def bcc_directory():
    """The directory of bcc's Python package that a child without our -S would import, or None."""
    version = "python%d.%d" % sys.version_info[:2]
    for base in "/usr/local/lib", "/usr/lib", "/usr/lib64", "/usr/local/lib64":
        for path in ("%s/python3/dist-packages" % base, "%s/%s/dist-packages" % (base, version),
                     "%s/%s/site-packages" % (base, version)):
            if os.path.exists(os.path.join(path, "bcc/__init__.py")):
                return os.path.join(path, "bcc")
    return None


def _bcc_id():
    directory = bcc_directory()
    if directory is None:
        return b""
    path = os.path.join(directory, "version.py")
    try:
        with open(path, "rb") as f:
            return f.read(256) + b"%d" % os.fstat(f.fileno()).st_mtime_ns
    except OSError:
        return directory.encode()


def key(source):
    """The name of the cache entry: command, variant, and a hash of all that the object depends on."""
    digest = blake2b(digest_size=16)
    for part in (_MAGIC, __version__.encode(), repr(source.request()).encode(), _kernel_id(), _bcc_id()):
        digest.update(b"%d:" % len(part))
        digest.update(part)
    return "%s-%s" % (source.name, digest.hexdigest())


def pack(meta, code):
    """The bytes of an object: magic, checksum, then a line for each fact and, after an empty one, the instructions.

    Lines of tab-separated fields, not JSON, whose module costs a warm start a millisecond.
    """
    lines = [("name", meta["name"]), ("unusable", meta["unusable"] or "")]
    lines += [("point", *point) for point in meta["points"]] + [("probe", probe) for probe in meta["probes"]]
    lines += [("map", *entry) for entry in meta["maps"]]
    lines += [("layout", *item) for item in meta["layouts"].items()]
    for name, length, maps, params in meta["functions"]:
        lines.append(("function", name, length))
        lines += [("at_map", at, index) for at, index in maps]
        lines += [("at_param", at, param) for at, param in params]
    lines += [("id", target, "" if number is None else number) for target, number in meta["ids"].items()]
    lines += [("constant", name, value) for name, value in meta["constants"].items()]
    lines += [("counter", name) for name in meta["counters"]]
    head = "".join("\t".join(" ".join(str(field).split()) for field in line) + "\n" for line in lines)
    body = head.encode() + b"\n" + code
    return _MAGIC + blake2b(body, digest_size=_DIGEST).digest() + body


def unpack(data):
    """The Object in the bytes that `pack` made.  Raises ValueError for anything else."""
    start = len(_MAGIC) + _DIGEST
    body = data[start:]
    if data[:len(_MAGIC)] != _MAGIC:
        raise ValueError("not an object of this version")
    if blake2b(body, digest_size=_DIGEST).digest() != data[len(_MAGIC):start]:
        raise ValueError("the checksum is wrong")
    head, _, code = body.partition(b"\n\n")
    meta = {"points": [], "probes": [], "maps": [], "layouts": {}, "functions": [], "ids": {}, "constants": {}, "counters": []}
    try:
        for line in head.decode().split("\n"):
            word, *fields = line.split("\t")
            if word in ("name", "unusable"):
                meta[word] = fields[0] or None
            elif word == "point":
                meta["points"].append(fields)
            elif word == "probe":
                meta["probes"].append(fields[0])
            elif word == "map":
                meta["maps"].append([fields[0], *map(int, fields[1:6]), *fields[6:]])
            elif word == "layout":
                meta["layouts"][fields[0]] = fields[1]
            elif word == "function":
                meta["functions"].append((fields[0], int(fields[1]), [], []))
            elif word == "at_map":
                meta["functions"][-1][2].append((int(fields[0]), int(fields[1])))
            elif word == "at_param":
                meta["functions"][-1][3].append((int(fields[0]), fields[1]))
            elif word == "id":
                meta["ids"][fields[0]] = int(fields[1]) if fields[1] else None
            elif word == "constant":
                meta["constants"][fields[0]] = int(fields[1])
            elif word == "counter":
                meta["counters"].append(fields[0])
        return Object(meta, code)
    except (KeyError, IndexError) as exc:
        raise ValueError("the metadata is not what was expected: %r" % exc) from None


def _open_cache(path, create=False):
    """A descriptor of the cache directory, checked.  Raises OSError, or ValueError with the objection."""
    uid = os.geteuid()
    # A link above the directory is its administrator's wish, and is checked where it leads.
    path = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
    fd = os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        parts = [part for part in path.split("/") if part]
        for i, part in enumerate(parts):
            last = i == len(parts) - 1
            if create and last:
                try:
                    os.mkdir(part, 0o700, dir_fd=fd)
                except FileExistsError:
                    pass
            here = "/" + "/".join(parts[:i + 1])
            if last and stat.S_ISLNK(os.stat(part, dir_fd=fd, follow_symlinks=False).st_mode):
                raise ValueError("%s is a symbolic link" % here)
            below = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
            os.close(fd)
            fd = below
            info = os.fstat(fd)
            if info.st_uid not in (0, uid):
                raise ValueError("%s belongs to uid %d" % (here, info.st_uid))
            if info.st_mode & 0o022 and (last or not info.st_mode & stat.S_ISVTX):
                raise ValueError("%s can be written by others (mode %04o)" % (here, info.st_mode & 0o7777))
        return fd
    except BaseException:
        os.close(fd)
        raise


def load(name, path=CACHE):
    """(Object, None) from the cache, (None, None) when it has none, (None, warning) for one it must not use."""
    try:
        directory = _open_cache(path)
    except FileNotFoundError:
        return None, None
    except PermissionError:
        return None, None
    except (OSError, ValueError) as exc:
        return None, "program cache not used: %s" % _reason(exc, path)
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=directory)
    except FileNotFoundError:
        return None, None
    except OSError as exc:
        return None, "cached program not used: %s" % _reason(exc, os.path.join(path, name))
    finally:
        os.close(directory)
    try:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode) or info.st_uid != os.geteuid() or info.st_mode & 0o177 \
                or info.st_nlink != 1 or info.st_size > _LIMIT:
            raise ValueError("not our own file with mode 0600")
        data = b""
        while len(data) <= info.st_size:
            piece = os.read(fd, info.st_size + 1 - len(data))
            if not piece:
                break
            data += piece
        return unpack(data), None
    except (OSError, ValueError) as exc:
        return None, "cached program %s not used: %s; it is built again" % (name, _reason(exc))
    finally:
        os.close(fd)


def store(name, data, path=CACHE):
    """Put an entry in place atomically; None, or a warning that says why it was not kept."""
    try:
        directory = _open_cache(path, create=True)
    except (OSError, ValueError) as exc:
        return "program not cached: %s" % _reason(exc, path)
    temporary = ".%s.%d.%s" % (name, os.getpid(), os.urandom(8).hex())
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC,
                     0o600, dir_fd=directory)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view):]
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
        return None
    except OSError as exc:
        try:
            os.unlink(temporary, dir_fd=directory)
        except OSError:
            pass
        return "program not cached: %s" % _reason(exc, path)
    finally:
        os.close(directory)


def _reason(exc, path=""):
    if isinstance(exc, OSError):
        return "%s%s" % (path + ": " if path else "", exc.strerror)
    return str(exc)


def build(source, cache=True, warn=lambda text: None, headers="auto", path=CACHE):
    """The Object of a source: from the cache, else compiled by bcc in a child and put there.

    warn: called with a line for each thing that the user should know.
    headers: "btf" or "kernel" to use only that source of types.
    Raises Unavailable without any source of types (NoCompiler without bcc), NotPermitted, Stopped, and
    Error when the text does not compile.
    """
    if cache:
        found = cached(source, warn, headers, path)
        if found is not None:
            return found
    from . import bpf           # here, since the child needs none of it
    bpf.check_permission()
    data = _compile(source, headers)
    if cache:
        warning = keep(source, data, headers, path)
        if warning and os.geteuid() == 0:
            warn(warning)
    return unpack(data)


def cached(source, warn=lambda text: None, headers="auto", path=CACHE):
    """The Object of a source from the cache, or None."""
    found, warning = load(_entry(source, headers), path)
    if warning:
        warn(warning)
    return found


def keep(source, data, headers="auto", path=CACHE):
    """Put the bytes of a compiled source into the cache; None, or a warning that says why they were not kept."""
    return store(_entry(source, headers), data, path)


def _entry(source, headers):
    return key(source) + ("" if headers == "auto" else "-" + headers)


def _compile(source, headers):
    """The bytes of the object."""
    compiler = Compiler(source, headers)
    wait([compiler])
    return compiler.result()


class NoCompiler(Unavailable):
    """bcc is not installed."""

    code = 127          # with which the child ends


class Compiler:
    """bcc at work on one source, in a child process: a session of its own, which a terminal's Ctrl-C does not reach.

    The child runs the system's Python, whatever the environment says, in / and with a fixed environment.
    It dies with this process.  source: a Source; fd: readable when the child has written, or has ended.
    """

    def __init__(self, source, headers="auto"):
        import json
        import subprocess
        import _signal as signal
        from .child import ENVIRONMENT
        self.source, self._data, self._late = source, b"", False
        self._errors = os.memfd_create("errors")
        request = os.memfd_create("request")
        self.fd, output = os.pipe()
        builder = os.path.join(os.path.dirname(os.path.abspath(__file__)), "builder.py")
        # The child keeps this mask.  It is this process that a service manager's SIGTERM, sent to both, is for.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
        try:
            with open(request, "wb", closefd=False) as f:
                f.write(json.dumps(dict(source.request(), headers=headers)).encode())
            os.lseek(request, 0, os.SEEK_SET)
            self._child = subprocess.Popen(
                [_PYTHON, "-I", builder, str(os.getpid())], stdin=request, stdout=output, stderr=self._errors,
                env=ENVIRONMENT, cwd="/", start_new_session=True)
            self.deadline = time.monotonic() + _TIME_LIMIT
        except BaseException:
            os.close(self._errors)
            os.close(self.fd)
            raise
        finally:
            os.close(output)
            os.close(request)
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def read(self):
        """Take what the child has written; True when that was all."""
        piece = os.read(self.fd, 1 << 16)
        self._data += piece
        return not piece

    def late(self):
        """End the child when its time is up."""
        if time.monotonic() >= self.deadline:
            self._late = True
            self._child.kill()
            self.deadline += _TIME_LIMIT

    def close(self):
        """End the child, unless it has ended, and release all of it; returns its status."""
        self._child.kill()
        status = self._child.wait()
        os.close(self.fd)
        os.close(self._errors)
        if status < 0:
            sweep()
        return status

    def result(self):
        """The bytes of the object, when `wait` has returned this one.  Raises as `build` does."""
        self._child.wait()
        text = os.pread(self._errors, 1 << 20, 0).decode("utf-8", "backslashreplace")
        lines, status = text.strip().splitlines() or ["no message"], self.close()
        if self._data.startswith(_MAGIC) and not status:
            return self._data
        for kind in Unavailable, NotPermitted:
            if status == kind.status:
                raise kind(lines[-1])
        if status == NoCompiler.code:
            raise NoCompiler(lines[-1])
        if self._late:
            raise Error("cannot compile %s: the compiler had not ended after %d seconds"
                        % (self.source.name, _TIME_LIMIT))
        if status < 0:
            raise Error("cannot compile %s: the compiler was ended by signal %d" % (self.source.name, -status))
        errors = [line for line in lines if "error:" in line]
        if not errors and lines[-1].startswith("cannot "):
            raise Error(lines[-1])
        raise Error("cannot compile %s: %s" % (self.source.name, (errors or lines[-1:])[0]))


def wait(compilers):
    """Wait until one of the Compilers has ended, and return it.

    One that exceeds the time limit is ended.  Raises Stopped at a stop, which ends all of them.
    """
    from . import cli
    while True:
        left = min(compiler.deadline for compiler in compilers) - time.monotonic()
        ready = cli.wait(left, [compiler.fd for compiler in compilers])
        if cli.stopping():
            for compiler in compilers:
                compiler.close()
            raise Stopped
        for compiler in compilers:
            if compiler.fd in ready and compiler.read():
                return compiler
            compiler.late()


def sweep():
    """Remove the directories of header files that killed compilers have left; one at work holds a lock on its own."""
    import fcntl
    import shutil
    for parent in SCRATCH:
        try:
            names = [name for name in os.listdir(parent) if name.startswith(SCRATCH_PREFIX)]
        except OSError:
            continue
        for name in names:
            path = os.path.join(parent, name)
            try:
                fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            except OSError:
                continue
            try:
                if os.fstat(fd).st_uid == os.geteuid():
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(path, ignore_errors=True)
            except OSError:             # it is in use
                pass
            finally:
                os.close(fd)
