# SPDX-License-Identifier: GPL-2.0-or-later
"""Which pages of a file are in memory, and the walk that finds the files.

cachestat(2), Linux 6.5, mm/filemap.c: the kernel counts the folios that exist,
in any state.  mincore(2), mm/mincore.c: one byte for each page of a mapping.
Neither reads a page or changes its age.  Both refuse a caller who neither
owns the file nor may write it, cachestat by EPERM and mincore by saying that
everything is resident; here both read None.
"""

import ctypes
import errno
import os
import stat

from . import cli
from .errors import Error, NotPermitted, Unavailable

__all__ = ["PAGE", "NOTHING", "Residency", "Walk", "Owners", "map_file", "unmap", "runs",
           "process_files", "pages_of", "add_arguments", "names_from", "mappings",
           "data_ranges", "lock_file"]

PAGE = os.sysconf("SC_PAGE_SIZE")
NOTHING = (0, 0, 0, 0, 0)
_CACHESTAT = 451                # the same on every architecture but alpha
_HUGETLBFS, _OVERLAYFS, _TMPFS, _RAMFS = 0x958458f6, 0x794c7630, 0x01021994, 0x858458f6  # uapi/linux/magic.h
_WINDOW = 1 << 28               # bytes mapped at a time for mincore
_LARGE = 1 << 30                # a file that several threads count: up to 20 ns a page
_FAR = 1 << 30                  # beyond the end of a file by more than any folio's size
_MAP_SHARED, _MAP_PRIVATE, _PROT_NONE, _PROT_READ = 1, 2, 0, 1
_MADV_RANDOM, _MADV_POPULATE_READ = 1, 22
_MLOCK_ONFAULT = 1
_NAME_MAX = 1 << 16             # bytes of a name in a list: open(2) takes 4096
_POPULATED = 1 << 26            # bytes faulted in at a time

# PyDLL keeps the interpreter's lock: there is one thread, and the calls are as short as taking the lock.
_libc = ctypes.PyDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long
_syscall.argtypes = (ctypes.c_long, ctypes.c_uint, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint)
_mmap = _libc.mmap
_mmap.restype = ctypes.c_void_p
_mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
_munmap = _libc.munmap
_munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_mincore = _libc.mincore
_mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)
_madvise = _libc.madvise
_madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_mlock2 = _libc.mlock2
_mlock2.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint)
_mlock = _libc.mlock
_mlock.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_FAILED = ctypes.c_void_p(-1).value


def _raise(name=None):
    code = ctypes.get_errno()
    raise OSError(code, os.strerror(code), name)


def pages_of(size):
    """The number of pages that `size` bytes take."""
    return (size + PAGE - 1) // PAGE


def map_file(fd, offset, length, prot=_PROT_NONE, flags=_MAP_SHARED):
    """The address of a new mapping.  Raises OSError.  unmap() it."""
    address = _mmap(None, length, prot, flags, fd, offset)
    if address == _FAILED:
        _raise()
    return address


def unmap(address, length):
    _munmap(address, length)


class Residency:
    """The page cache's state of files, asked in the way that is right for each file system."""

    def __init__(self, force_cachestat=False):
        """force_cachestat: never ask mincore; Unavailable when the kernel has no cachestat."""
        self.force = force_cachestat
        self._ways = {}                 # st_dev -> method, for what is not plain cachestat
        self._plain = set()             # st_dev where cachestat is right
        self._range = (ctypes.c_uint64 * 2)()
        self._stat = (ctypes.c_uint64 * 5)()
        self._range_at, self._stat_at = ctypes.addressof(self._range), ctypes.addressof(self._stat)
        self._view = memoryview(self._stat).cast("B").cast("Q")
        self._memory = set()            # st_dev of file systems that live in memory
        # Asked for no file at all: only a filter of calls, as of older containers, then says EPERM.
        self.has_cachestat = not (_syscall(_CACHESTAT, 0xffffffff, self._range_at, self._stat_at, 0)
                                  and ctypes.get_errno() in (errno.ENOSYS, errno.EPERM))
        if force_cachestat and not self.has_cachestat:
            raise Unavailable("cannot use cachestat: it needs Linux 6.5, and no seccomp filter against it. "
                              "Leave out -C to use mincore")

    def measure(self, fd, st, size):
        """(resident, dirty, writeback, evicted, recently evicted) in pages, below `size` bytes.

        None in place of a count that this file system or kernel does not give,
        None in place of all when the kernel does not tell this user.  Raises OSError.
        """
        if st.st_dev not in self._plain:
            way = self._ways.get(st.st_dev) or self._choose(fd, st)
            if way != self.range:
                return way(fd, st, size)
        if not size:
            return NOTHING
        if size >= _LARGE:
            return self._by_threads(fd, size)
        self._range[1] = size           # 0 would count what lies beyond the end of the file too
        if _syscall(_CACHESTAT, fd, self._range_at, self._stat_at, 0):
            return self._refused()
        return tuple(self._view)

    def _by_threads(self, fd, size):
        """measure() of a large file: the kernel holds no lock, so each CPU can count a part."""
        import _thread
        parts = min(len(os.sched_getaffinity(0)), 4)
        syscall = ctypes.CDLL(None, use_errno=True).syscall         # lets the other threads run
        syscall.restype, syscall.argtypes = _syscall.restype, _syscall.argtypes
        edges = [pages_of(size) * i // parts * PAGE for i in range(parts)] + [size]
        results, done = [None] * parts, [_thread.allocate_lock() for _ in range(parts)]

        def count(part):
            where, found = (ctypes.c_uint64 * 2)(edges[part], edges[part + 1] - edges[part]), (ctypes.c_uint64 * 5)()
            failed = syscall(_CACHESTAT, fd, ctypes.addressof(where), ctypes.addressof(found), 0)
            results[part] = ctypes.get_errno() if failed else tuple(found)
            done[part].release()

        for lock in done:
            lock.acquire()
        for part in range(1, parts):
            try:
                _thread.start_new_thread(count, (part,))
            except RuntimeError:            # no thread can be had
                count(part)
        count(0)
        for lock in done:
            lock.acquire()
        for result in results:
            if isinstance(result, int):
                ctypes.set_errno(result)
                return self._refused()
        return tuple(map(sum, zip(*results)))

    def range(self, fd, offset, length):
        """The same five for a range of bytes, by cachestat alone."""
        self._range[:] = offset, length
        failed = _syscall(_CACHESTAT, fd, self._range_at, self._stat_at, 0)
        self._range[0] = 0
        return self._refused() if failed else tuple(self._view)

    def is_hugetlb(self, fd, st):
        """True for a file of huge pages, of which no call says which are there."""
        return st.st_dev not in self._plain and (self._ways.get(st.st_dev) or self._choose(fd, st)) == self._hugetlb

    def counts_ranges(self, fd, st):
        """True where range() is right for the file."""
        return st.st_dev in self._plain or (self._ways.get(st.st_dev) or self._choose(fd, st)) == self.range

    def in_memory_only(self, st):
        """True for a file that measure() has seen on tmpfs, ramfs or hugetlbfs."""
        return st.st_dev in self._memory

    def _refused(self):
        if ctypes.get_errno() == errno.EPERM:
            return None
        _raise()

    def _choose(self, fd, st):
        buffer = ctypes.create_string_buffer(256)
        magic = 0
        if not _libc.fstatfs(fd, buffer):       # f_type comes first: long, on s390x unsigned int
            magic = ctypes.c_uint32.from_buffer(buffer).value
        if magic in (_HUGETLBFS, _TMPFS, _RAMFS):
            self._memory.add(st.st_dev)
        if magic == _HUGETLBFS:
            way = self._hugetlb
        elif magic == _OVERLAYFS or not self.has_cachestat:
            # An overlay's own inodes cache nothing: cachestat would say 0.  A mapping is of the real file.
            way = self._unsupported if self.force else self._by_mincore
        else:
            self._plain.add(st.st_dev)
            return self.range
        self._ways[st.st_dev] = way
        return way

    @staticmethod
    def _unsupported(fd, st, size):
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    @staticmethod
    def _hugetlb(fd, st, size):
        # cachestat refuses, mincore knows only what the caller has mapped.  Blocks are counted as pages
        # enter the cache (hugetlb_add_to_page_cache, mm/hugetlb.c), and nothing is ever written or evicted.
        return st.st_blocks * 512 // PAGE, None, None, None, None

    def _by_mincore(self, fd, st, size):
        count = 0
        for _, vector in self.vectors(fd, size):
            if vector is None:
                return None
            count += vector.count(1)
        return count, None, None, None, None

    def vectors(self, fd, size, ranges=None):
        """Yield (offset, bytearray of a byte for each page: 1 is resident), window by window.

        ranges: [(offset, end)] below the size of the file, the whole of it by default; offsets begin a page.
        The one bytearray is None when the kernel does not tell this user.  Raises OSError.
        """
        if ranges is None:
            ranges = [(0, size)]
        if any(start < end for start, end in ranges) and not self._tells(fd, size):
            yield 0, None
            return
        for start, end in ranges:
            for offset in range(start, end, _WINDOW):
                yield offset, self._mincore(fd, offset, min(_WINDOW, end - offset), _MAP_SHARED)

    def _mincore(self, fd, offset, length, flags):
        count = pages_of(length)
        vector = bytearray(count)
        where = (ctypes.c_char * count).from_buffer(vector)
        try:
            address = map_file(fd, offset, length)
        except OSError as exc:
            if exc.errno not in (errno.EACCES, errno.ENODEV, errno.EINVAL):
                raise
            address = map_file(fd, offset, length, flags=_MAP_PRIVATE)
        try:
            if _mincore(address, length, ctypes.addressof(where)):
                _raise()
        finally:
            unmap(address, length)
        return vector

    def _tells(self, fd, size):
        """False where mincore would call all pages resident, whatever they are.

        It then says so of a page beyond the end of the file too.
        """
        end = pages_of(size) * PAGE
        for beyond in end + _FAR, end:
            try:
                return not self._mincore(fd, beyond, PAGE, _MAP_SHARED)[0] & 1
            except OSError as exc:      # beyond what the file system can address
                if exc.errno not in (errno.EOVERFLOW, errno.EINVAL, errno.ENOMEM):
                    raise
        return False


class Owners:
    """The memory cgroups to which the pages of files are charged.  Needs root.

    The resident pages are mapped, /proc/self/pagemap gives their frames and
    /proc/kpagecgroup the inode of each frame's cgroup
    (Documentation/admin-guide/mm/pagemap.rst).  A page that is evicted
    between the two looks is read again.
    """

    def __init__(self):
        """Raises NotPermitted or Unavailable."""
        try:
            self.groups = os.open("/proc/kpagecgroup", os.O_RDONLY | os.O_CLOEXEC)
            self.map = os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise Unavailable("cannot see who owns the pages: this kernel has no /proc/kpagecgroup "
                              "(CONFIG_MEMCG, CONFIG_PROC_PAGE_MONITOR)") from None
        except PermissionError:
            raise NotPermitted("cannot see who owns the pages: /proc/kpagecgroup is root's. Run as root") from None
        self.residency = Residency()

    def count(self, fd, size):
        """{inode of the cgroup, or 0 for none: pages}.  Raises OSError, NotPermitted."""
        found = {}
        for offset, vector in self.residency.vectors(fd, size):
            if vector is None:
                raise OSError(errno.EPERM, os.strerror(errno.EPERM))
            if not vector.count(1):
                continue
            length = min(_WINDOW, size - offset)
            address = map_file(fd, offset, length, _PROT_READ)
            try:
                _madvise(address, length, _MADV_RANDOM)     # its pages do not look used at unmapping
                for first, count in runs(vector, 1):
                    self._add(found, address + first * PAGE, count)
            finally:
                unmap(address, length)
        return found

    def _add(self, found, address, count):
        if _madvise(address, count * PAGE, _MADV_POPULATE_READ):
            if ctypes.get_errno() == errno.EINVAL:
                raise Unavailable("cannot see who owns the pages: MADV_POPULATE_READ needs Linux 5.14")
            if ctypes.get_errno() not in (errno.EFAULT, errno.ENOMEM):      # truncated under way
                _raise()
        frames = memoryview(os.pread(self.map, 8 * count, address // PAGE * 8)).cast("Q")
        start = last = None
        for entry in frames:
            if not entry >> 63:         # not present
                continue
            frame = entry & (1 << 55) - 1
            if not frame:
                raise NotPermitted("cannot see who owns the pages: /proc/self/pagemap hides the frames. Run as root")
            if last is not None and frame == last + 1:
                last = frame
                continue
            if last is not None:
                self._charge(found, start, last)
            start = last = frame
        if last is not None:
            self._charge(found, start, last)

    def _charge(self, found, first, last):
        groups = memoryview(os.pread(self.groups, 8 * (last - first + 1), 8 * first)).cast("Q").tolist()
        while groups:
            group = groups[0]
            count = groups.count(group)
            found[group] = found.get(group, 0) + count
            groups = [g for g in groups if g != group] if count < len(groups) else ()


def runs(vector, value):
    """Yield (first, count) of each run of bytes `value` (0 or 1) in a bytearray of zeros and ones."""
    wanted, other = bytes((value,)), bytes((1 - value,))
    first = vector.find(wanted)
    while first >= 0:
        end = vector.find(other, first)
        if end < 0:
            end = len(vector)
        yield first, end - first
        first = vector.find(wanted, end)


def data_ranges(fd, size):
    """Yield (offset, end) of what lseek(2) calls data, below `size`; all of it where the file system has no idea."""
    end = 0
    while end < size:
        try:
            start = os.lseek(fd, end, os.SEEK_DATA)
            end = os.lseek(fd, start, os.SEEK_HOLE)
        except OSError as exc:
            if exc.errno != errno.ENXIO:        # which says: a hole up to the end
                yield end, size
            return
        if start < size:
            yield start, min(end, size)


def lock_file(fd, size, ranges, advance):
    """Map a file for good, lock it, and fault the (offset, end) ranges in.  Raises OSError.

    advance: called with the bytes done after each piece; what it raises unmaps the file.
    Pages are locked as they come (MLOCK_ONFAULT): the holes stay holes, and a
    file that is cut short meanwhile is an end and no SIGBUS.
    """
    address = map_file(fd, 0, size, _PROT_READ)
    try:
        if _mlock2(address, size, _MLOCK_ONFAULT):
            _raise()
        for start, end in ranges:
            start -= start % PAGE
            while start < end:
                length = min(_POPULATED, end - start)
                if _madvise(address + start, length, _MADV_POPULATE_READ):
                    code = ctypes.get_errno()
                    if code == errno.EFAULT:            # truncated
                        return
                    if code != errno.EINVAL:            # before Linux 5.14; mlock faults in too, and never kills
                        _raise()
                    if _mlock(address + start, length):
                        _raise()
                start += length
                advance(length)
    except BaseException:
        unmap(address, size)
        raise


class Walk:
    """The files below the arguments, opened without waiting, following or dating anything.

    exclude: shell patterns; a file or directory whose name or path matches is left out.
    one_file_system: do not enter a directory on another file system than its argument's.
    follow: follow symbolic links inside directories too; each directory is entered once.
    share: (k, n): only the k-th of n parts; links to one inode are in the same part.
    on_error(path, what, exception or text): called for what cannot be read.
    stopping(): True ends the walk.
    """

    def __init__(self, exclude=(), one_file_system=False, follow=False, share=(0, 1),
                 on_error=lambda path, what, why: None, stopping=lambda: False):
        self.excluded = _matcher(exclude)
        self.one_file_system, self.follow, self.share = one_file_system, follow, share
        self.on_error, self.stopping = on_error, stopping
        self.vanished = 0               # files that went between the directory's reading and the opening
        self._seen = set()              # (dev, ino) of files with several links
        self._directories = set()       # the same of directories, when following
        self._noatime = os.O_NOATIME

    def files(self, paths):
        """Yield (directory with its slash or "", name, fd, stat_result, size, seen before).

        The descriptor is closed when the next one is asked for.  A file named
        by an argument is always given, later links found in a directory never.
        """
        for path in paths:
            if self.stopping():
                return
            yield from self._named(path)

    def _named(self, path):
        first = not self.share[0]
        try:
            st = os.stat(path)
            kind = stat.S_IFMT(st.st_mode)
        except (OSError, ValueError) as exc:
            if first:
                self.on_error(path, "open", exc)
            return
        if self.excluded and self.excluded(os.path.basename(path.rstrip("/")), path):
            return
        if kind == stat.S_IFDIR:
            yield from self._tree(path)
        elif kind not in (stat.S_IFREG, stat.S_IFBLK):
            if first:
                self.on_error(path, "measure", "it is a %s" % {
                    stat.S_IFIFO: "FIFO", stat.S_IFSOCK: "socket", stat.S_IFCHR: "character device"}[kind])
        elif self._mine(st.st_ino):
            try:
                fd = self._open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
            except OSError as exc:
                self.on_error(path, "open", exc)
                return
            try:
                st = os.fstat(fd)
                block = stat.S_ISBLK(st.st_mode)
                size = os.lseek(fd, 0, os.SEEK_END) if block else st.st_size
                again = False
                if not block and (st.st_nlink > 1 or self.follow):
                    again = (st.st_dev, st.st_ino) in self._seen
                    self._seen.add((st.st_dev, st.st_ino))
                yield "", path, fd, st, size, again
            finally:
                os.close(fd)

    def _mine(self, inode):
        number, parts = self.share
        return parts == 1 or (inode * 0x9e3779b1 >> 16) % parts == number

    def _open(self, path, flags, dir_fd=None):
        """open(2), leaving the time of access alone where the caller may do that."""
        if self._noatime:
            try:
                return os.open(path, flags | self._noatime, dir_fd=dir_fd)
            except PermissionError as exc:
                if exc.errno != errno.EPERM:
                    raise
                self._noatime = 0       # somebody else's file; the next ones probably too
        return os.open(path, flags, dir_fd=dir_fd)

    def _open_directory(self, path, flags):
        try:
            return self._open(path, flags)
        except OSError as exc:
            if exc.errno != errno.ENAMETOOLONG:
                raise
        fd = None                       # deeper than PATH_MAX: by pieces
        try:
            while path:
                cut = path.rfind("/", 1, 2048) + 1 if len(path) > 2048 else len(path)
                piece, path = path[:cut or len(path)], path[cut or len(path):].lstrip("/")
                above, fd = fd, os.open(piece, flags if not path else flags & ~os.O_NOFOLLOW, dir_fd=fd)
                if above is not None:
                    os.close(above)
            return fd
        except OSError:
            if fd is not None:
                os.close(fd)
            raise

    def _tree(self, top):
        directory_flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NONBLOCK
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
        follow, excluded, seen = self.follow, self.excluded, self._seen
        number, parts = self.share
        if not follow:
            flags |= os.O_NOFOLLOW
        device = None
        os_open, fstat, close, is_regular = os.open, os.fstat, os.close, stat.S_ISREG
        pending = [top]
        while pending and not self.stopping():
            path = pending.pop()
            try:
                directory = self._open_directory(path, directory_flags if follow or device is None
                                                 else directory_flags | os.O_NOFOLLOW)
            except OSError as exc:
                if device is None or exc.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                    if not number:
                        self.on_error(path, "open", exc)
                continue
            try:
                if device is None or self.one_file_system or follow:
                    st = fstat(directory)
                    if device is None:
                        device = st.st_dev
                    elif self.one_file_system and st.st_dev != device:
                        continue
                    if follow:
                        if (st.st_dev, st.st_ino) in self._directories:
                            continue
                        self._directories.add((st.st_dev, st.st_ino))
                prefix = path if path.endswith("/") else path + "/"
                with os.scandir(directory) as entries:
                    for entry in entries:
                        name = entry.name
                        try:
                            if entry.is_file(follow_symlinks=follow):
                                if parts > 1 and (entry.inode() * 0x9e3779b1 >> 16) % parts != number:
                                    continue
                                if excluded and excluded(name, prefix + name):
                                    continue
                                try:
                                    fd = os_open(name, flags | self._noatime, dir_fd=directory)
                                except PermissionError:
                                    fd = self._open(name, flags, directory)
                            else:
                                if entry.is_dir(follow_symlinks=follow) and not (
                                        excluded and excluded(name, prefix + name)):
                                    pending.append(prefix + name)
                                continue
                        except OSError as exc:
                            if exc.errno == errno.ENOENT:
                                self.vanished += 1
                            else:
                                self.on_error(prefix + name, "open", exc)
                            continue
                        try:
                            st = fstat(fd)
                            if not is_regular(st.st_mode):
                                continue
                            if st.st_nlink > 1 or follow:
                                key = st.st_dev, st.st_ino
                                if key in seen:
                                    continue
                                seen.add(key)
                            yield prefix, name, fd, st, st.st_size, False
                        finally:
                            close(fd)
                        if self.stopping():
                            return
            except OSError as exc:
                if not number:
                    self.on_error(path, "read", exc)
            finally:
                close(directory)


def _matcher(patterns):
    """A function of (name, path) that is true where one of the shell patterns matches; None for no patterns."""
    if not patterns:
        return None
    import fnmatch
    import re
    match = re.compile("|".join(fnmatch.translate(pattern) for pattern in patterns)).match
    return lambda name, path: match(name) or match(path)


def process_files(pid, root="/"):
    """[(name, path that opens it)] of the regular files that a process has mapped or open, each inode once.

    The paths are /proc/PID/map_files and /proc/PID/fd, which reach deleted
    files and those of other mount namespaces.  Without CAP_CHECKPOINT_RESTORE,
    which map_files needs, mapped files are opened by name where the name still
    leads to the same inode.  The second result counts those that cannot be reached.
    Raises Error for no such process, NotPermitted for somebody else's.
    """
    base = os.path.join(root, "proc/%d" % pid)
    found, unreachable = {}, 0
    try:
        numbers = os.listdir(base + "/fd")
        with open(base + "/maps", "rb") as f:
            maps = f.read().decode("utf-8", "surrogateescape").splitlines()
    except (FileNotFoundError, ProcessLookupError):
        raise Error("no such process: %d" % pid) from None
    except PermissionError:
        raise NotPermitted("cannot list the files of process %d: not permitted. Run as its user or as root"
                           % pid) from None
    for number in numbers:
        unreachable += not _add(found, "%s/fd/%s" % (base, number), None)
    for line in maps:
        # start-end perms offset dev inode name (fs/proc/task_mmu.c, show_map_vma)
        fields = line.split(None, 5)
        if len(fields) < 6 or fields[4] == "0":
            continue
        start, _, end = fields[0].partition("-")
        name = fields[5]
        device = tuple(int(part, 16) for part in fields[3].split(":"))
        if (os.makedev(*device), int(fields[4])) in found:
            continue
        if not _add(found, "%s/map_files/%x-%x" % (base, int(start, 16), int(end, 16)), None):
            unreachable += not _add(found, name, (os.makedev(*device), int(fields[4])))
    return list(found.values()), unreachable


def mappings(root="/"):
    """{(major, minor, inode) and path: {pid: comm}} of all files that processes have mapped, as far as one may look."""
    from .table import decode
    found = {}
    for pid in filter(str.isdigit, os.listdir(os.path.join(root, "proc"))):
        base = os.path.join(root, "proc", pid)
        try:
            with open(base + "/maps", "rb") as f:
                lines = f.read().splitlines()
            with open(base + "/comm", "rb") as f:
                comm = decode(f.read().rstrip(b"\n"))
        except OSError:
            continue
        for line in lines:
            fields = line.split(None, 5)
            if len(fields) == 6 and fields[4] != b"0":
                major, minor = fields[3].split(b":")
                for key in (int(major, 16), int(minor, 16), int(fields[4])), os.fsdecode(fields[5]):
                    found.setdefault(key, {})[int(pid)] = comm
    return found


def add_arguments(p):
    """Add to a parser the arguments that choose files, and the form of sizes and headings."""
    p.add_argument("-b", "--bytes", action="store_true", help="print sizes in bytes, not as 1.5M")
    p.add_argument("-n", "--noheadings", action="store_true", help="print no headings")
    p.add_argument("-x", "--one-file-system", action="store_true", help="stay on the file system of each argument")
    p.add_argument("-L", "--dereference", action="store_true", help="follow symbolic links inside directories")
    p.add_argument("--exclude", action="append", default=[], metavar="PATTERN",
                   help="leave out files and directories whose name or path matches the shell pattern; may be repeated")
    p.add_argument("--files-from", metavar="LIST", help="read names from this file, one a line; - is standard input")
    p.add_argument("-0", "--null", action="store_true", help="names of --files-from end in a NUL byte, not a newline")


def names_from(path, null):
    """Yield the names in a list file as they come, until its end or a stop.  "-" is standard input.  Raises OSError."""
    separator, rest = b"\0" if null else b"\n", b""
    with cli.reader(path) as stream:
        for block in iter(lambda: stream.read1(1 << 16), b""):
            *names, rest = (rest + block).split(separator)
            yield from map(os.fsdecode, filter(None, names))
            if len(rest) > _NAME_MAX:
                raise Error("cannot read names from %s: one has more than %d bytes. With -0 they end in NUL bytes"
                            % (path, _NAME_MAX))
    if rest and not cli.stopping():         # else it may be half a name
        yield os.fsdecode(rest)


def _add(found, path, expected):
    """False when the file cannot be reached; one that is not regular is left out."""
    try:
        st = os.stat(path)
        if stat.S_ISREG(st.st_mode):
            key = st.st_dev, st.st_ino
            if expected not in (None, key):
                return False
            if key not in found:
                found[key] = (os.readlink(path) if expected is None else path), path
        return True
    except FileNotFoundError:
        return expected is None         # a descriptor that was closed under way; a name that is gone
    except OSError:
        return False
