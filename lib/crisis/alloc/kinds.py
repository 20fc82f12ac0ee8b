# SPDX-License-Identifier: GPL-2.0-or-later
"""What memleak's programs report: the kinds of allocator functions and events.

They are declared here, and reach memleak.bpf.c as the macros KIND_*.
"""

from __future__ import annotations

__all__ = ["CALLS", "KINDS", "MAPPED", "WITHOUT_RETURN_PROBE"]

KINDS = (
    "none",
    "free",
    "alloc1",  # the size is argument 1
    "alloc2",  # ... argument 2
    "calloc",
    "realloc",
    "reallocarray",
    "posix_memalign",
    "mmap",  # from here to mprotect: MAPS() of the C
    "munmap",
    "mremap",
    "mprotect",
    "new",  # calls another new, or malloc: only its caller is noted
    "kmalloc",  # from here to percpu: the kernel's
    "kmem_cache",
    "pages",
    "percpu",
    "own_new",  # allocates itself; has no return probe, since an exception may leave it
    "return",  # a return instruction of one that allocates itself
    "throw",  # __cxa_throw
    "xallocx",
    # events
    "unmapped",
    "reserved",  # mapped, or protected, such that it cannot be accessed
    "forked",
    "execed",
    "exited",
)
(
    _,
    FREE,
    ALLOC1,
    ALLOC2,
    CALLOC,
    REALLOC,
    REALLOCARRAY,
    POSIX_MEMALIGN,
    MMAP,
    MUNMAP,
    MREMAP,
    MPROTECT,
    NEW,
    KMALLOC,
    KMEM_CACHE,
    PAGES,
    PERCPU,
    OWN_NEW,
    RETURN,
    THROW,
    XALLOCX,
    UNMAPPED,
    RESERVED,
    FORKED,
    EXECED,
    EXITED,
) = range(len(KINDS))

# What --trace calls them.
CALLS = {
    FREE: "free",
    ALLOC1: "malloc",
    ALLOC2: "memalign",
    CALLOC: "calloc",
    REALLOC: "realloc",
    REALLOCARRAY: "reallocarray",
    POSIX_MEMALIGN: "posix_memalign",
    MMAP: "mmap",
    MUNMAP: "munmap",
    MREMAP: "mremap",
    MPROTECT: "mprotect",
    OWN_NEW: "new",
    XALLOCX: "xallocx",
    KMALLOC: "kmalloc",
    KMEM_CACHE: "kmem_cache_alloc",
    PAGES: "mm_page_alloc",
    PERCPU: "percpu_alloc",
    UNMAPPED: "munmap",
}
MAPPED = (MMAP, MREMAP, MPROTECT)  # of blocks that are mappings
WITHOUT_RETURN_PROBE = (FREE, MUNMAP, NEW, OWN_NEW, RETURN, THROW)
