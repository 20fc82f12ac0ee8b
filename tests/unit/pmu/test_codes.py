# SPDX-License-Identifier: GPL-2.0-or-later
"""The table of event codes: against libpfm4, where it is installed and knows the CPU, and in
itself.
"""

import ctypes
import os
import re
import struct

import pytest

from crisis.pmu import codes

# libpfm4's name of the PMU, and of each of our events whose name it writes otherwise.
PMUS = {
    "Ivy Bridge": "ivb_ep",
    "Haswell": "hsw_ep",
    "Broadwell": "bdw_ep",
    "Skylake": "skx",
    "Cascade Lake": "clx",
    "Ice Lake": "icl",
    "Ice Lake server": "icx",
    "Sapphire Rapids": "spr",
    "Zen 1": "amd64_fam17h_zen1",
    "Zen 2": "amd64_fam17h_zen2",
    "Zen 3": "amd64_fam19h_zen3",
    "Zen 4": "amd64_fam19h_zen4",
}
# the kernel's own codes
MISSING = (
    "Emerald Rapids",
    "Granite Rapids",
    "Tiger Lake",
    "Rocket Lake",
    "Golden Cove",
    "Redwood Cove",
    "Lion Cove",
    "Gracemont",
    "Crestmont",
    "Skymont",
    "Zen 5",  # newer than libpfm4 4.13's tables
    "Neoverse N1",
    "Neoverse V1",
    "Neoverse N2",
    "Neoverse V2",  # its x86 build has no ARM tables
    codes.RISCV,
)
INTEL_NAMES = {
    "CPU_CLK_UNHALTED.THREAD_P": ("CPU_CLK_UNHALTED:THREAD_P", "CPU_CLK_UNHALTED:THREAD"),
    "ICACHE_64B.IFTAG_MISS": ("ICACHE_64B:IFTAG_MISS", "ICACHE_TAG:MISS"),
}
# Code of ours: how libpfm4 writes it (unit masks that are named one by one are or-ed).
ZEN_NAMES = {
    0x76: "CYCLES_NOT_IN_HALT",
    0xC0: "RETIRED_INSTRUCTIONS",
    0xC2: "RETIRED_BRANCH_INSTRUCTIONS",
    0xC3: "RETIRED_BRANCH_INSTRUCTIONS_MISPREDICTED",
    0x40: "DATA_CACHE_ACCESSES",
    0x29: "LS_DISPATCH",
    0x60: "REQUESTS_TO_L2_GROUP1",
    0x64: "CORE_TO_L2_CACHEABLE_REQUEST_ACCESS_STATUS",
    0x70: "L2_PREFETCH_HIT_L2",
    0x71: "L2_PREFETCH_HIT_L3",
    0x72: "L2_PREFETCH_MISS_L3",
    0x45: "L1_DTLB_MISS",
    0x85: "L1_ITLB_MISS_L2_ITLB_MISS",
    0x10000008E: "IC_TAG_HIT_MISS",
    0xAE: "DISPATCH_RESOURCE_STALL_CYCLES_1",
    0xAF: (
        "DISPATCH_RESOURCE_STALL_CYCLES_2",
        "DISPATCH_RESOURCE_STALL_CYCLES_0",
        "DYNAMIC_TOKENS_DISPATCH_STALLS_CYCLES_0",
    ),
    0x1000000A0: "DISPATCH_STALLS_1",
}
# Where ours differs, and why.
_HIT_BITS = "Intel's present lists have c4: both hit bits"
_ALL_BITS = "Linux's lists set all bits; those that libpfm4 does not name are reserved"
_MORE_MASKS = "Linux's list names unit masks that libpfm4 does not"
DIFFERENT = {
    ("Haswell", "0xc424"): _HIT_BITS,
    ("Broadwell", "0xc424"): _HIT_BITS,
    **{
        (kind, hex(code)): _ALL_BITS
        for kind in ("Zen 1", "Zen 2")
        for code in (0xFF70, 0xFF71, 0xFF72)
    },
    **dict.fromkeys(
        (
            ("Zen 2", "0x5faf"),
            ("Zen 2", "0x20af"),
            ("Zen 3", "0xf960"),
            ("Zen 3", "0x19ae"),
            ("Zen 3", "0x1faf"),
        ),
        _MORE_MASKS,
    ),
}


class Pfm:
    """libpfm4 by ctypes: the encoding of an event of a CPU that is not here."""

    def __init__(self):
        os.environ["LIBPFM_ENCODE_INACTIVE"] = "1"
        self.library = ctypes.CDLL("libpfm.so.4")
        if self.library.pfm_initialize():
            raise OSError("pfm_initialize failed")

    class Argument(ctypes.Structure):
        _fields_ = [
            ("attr", ctypes.c_void_p),
            ("fstr", ctypes.c_void_p),
            ("size", ctypes.c_size_t),
            ("idx", ctypes.c_int),
            ("cpu", ctypes.c_int),
            ("flags", ctypes.c_int),
        ]

    def encode(self, name):
        """(config, config1), or None for what libpfm4 does not know."""
        attr = ctypes.create_string_buffer(256)
        argument = self.Argument(
            ctypes.addressof(attr), None, ctypes.sizeof(self.Argument), 0, 0, 0
        )
        if self.library.pfm_get_os_event_encoding(name.encode(), 0x9, 2, ctypes.byref(argument)):
            return None
        return struct.unpack_from("=Q", attr.raw, 8)[0], struct.unpack_from("=Q", attr.raw, 56)[0]

    def event(self, name):
        """(the event's code without a unit mask, the bits of all its unit masks), or None."""
        index = self.library.pfm_find_event(name.encode())
        info = self.Info(size=ctypes.sizeof(self.Info))
        if index < 0 or self.library.pfm_get_event_info(index, 2, ctypes.byref(info)):
            return None
        bits = 0
        for number in range(info.nattrs):
            attribute = self.Info(size=ctypes.sizeof(self.Info))
            if (
                not self.library.pfm_get_event_attr_info(index, number, 2, ctypes.byref(attribute))
                and attribute.kind == 1
            ):  # PFM_ATTR_UMASK
                bits |= attribute.code
        return info.code, bits

    class Info(ctypes.Structure):
        """pfm_event_info_t and pfm_event_attr_info_t, which begin alike."""

        _fields_ = [
            ("name", ctypes.c_char_p),
            ("desc", ctypes.c_char_p),
            ("equiv", ctypes.c_char_p),
            ("size", ctypes.c_size_t),
            ("code", ctypes.c_uint64),
            ("kind", ctypes.c_int),
            ("dtype", ctypes.c_int),
            ("idx", ctypes.c_int),
            ("nattrs", ctypes.c_int),
            ("rest", ctypes.c_int * 8),
        ]


@pytest.fixture(scope="module")
def pfm():
    try:
        found = Pfm()
    except OSError as exc:
        pytest.skip(f"libpfm4 cannot be loaded: {exc}")
    # pfm_get_version() is 4.0 in each; the file has the name of its release.
    major, minor = re.search(r"/libpfm\.so\.(\d+)\.(\d+)", open("/proc/self/maps").read()).groups()
    if (int(major), int(minor)) < (4, 13):  # no Zen 4, and other codes for Ice Lake and Zen 3
        pytest.skip(f"libpfm4 {major}.{minor} is older than the tables; they need 4.13")
    return found


def compare(pfm, kind):
    """[(column, event name, code, verdict)] of every core event of a microarchitecture."""
    result = []
    for column, found in codes.table(kind).items():
        for event in found:
            code, name, config1 = event.code, event.name, event.config1
            if column.startswith("l3:"):
                verdict = _l3(pfm, kind, code)
            elif kind.startswith("Zen"):
                verdict = _zen(pfm, kind, code)
            else:
                names = INTEL_NAMES.get(name, (name.replace(".", ":"),))
                known = [e for e in (pfm.encode(f"{PMUS[kind]}::{n}") for n in names) if e]
                if not known:
                    verdict = "missing"
                elif (code, config1) in known:
                    verdict = "equal"
                else:
                    verdict = f"different: {known[0][0]:#x} {known[0][1]:#x}"
            result.append((column, name, code, verdict))
    return result


def _l3(pfm, kind, code):
    known = pfm.event("amd64_fam19h_zen3_l3::UNC_L3_REQUESTS") if kind == "Zen 3" else None
    return _verdict(known, 4, code >> 8) if known and code & 0xFF == 4 else "missing"


def _zen(pfm, kind, code):
    """libpfm4 names AMD's unit masks one by one: the event's code, and whether it has all bits of
    our mask.
    """
    event, mask = code & 0xF000000FF, code >> 8 & 0xFF
    names = ZEN_NAMES.get(event, ())
    for name in (names,) if isinstance(names, str) else names:
        known = pfm.event(f"{PMUS[kind]}::{name}")
        if known is not None:
            return _verdict(known, (event & 0xFF) | (event >> 32) << 8, mask)
    return "missing"


def _verdict(known, event, mask):
    if known[0] != event or mask & ~known[1]:
        return f"different: {known[0]:#x}, unit mask bits {known[1]:#x}"
    return "equal"


@pytest.mark.parametrize("kind", sorted(PMUS))
def test_codes_against_libpfm4(pfm, kind):
    verdicts = compare(pfm, kind)
    assert any(v.startswith("equal") for *_, v in verdicts), f"libpfm4 does not know {PMUS[kind]}"
    different = {
        (kind, hex(code)) for column, name, code, v in verdicts if v.startswith("different")
    }
    assert different <= set(DIFFERENT), [v for v in verdicts if v[3].startswith("different")]


def test_every_table_is_compared_or_said_to_be_missing():
    assert sorted(list(PMUS) + list(MISSING)) == sorted(codes.TABLES) == sorted(codes.SOURCES)


def test_tables_have_the_generic_counters_and_no_duplicates():
    for kind in codes.TABLES:
        found = codes.table(kind)
        assert set(codes.GENERIC) <= set(found) or kind == codes.RISCV
        for column, parts in found.items():
            assert len({(part.code, part.config1) for part in parts}) == len(parts), (kind, column)
            for part in parts:
                assert (
                    (part.code or kind == codes.RISCV)
                    and part.divisor >= 1
                    and re.match(r"[A-Za-z]", part.name)
                )


@pytest.mark.parametrize(
    "cpu, kind",
    [
        (("GenuineIntel", 6, 0x3E, 4), "Ivy Bridge"),
        (("GenuineIntel", 6, 0x3F, 2), "Haswell"),
        (("GenuineIntel", 6, 0x4F, 1), "Broadwell"),
        (("GenuineIntel", 6, 0x55, 4), "Skylake"),
        (("GenuineIntel", 6, 0x55, 7), "Cascade Lake"),
        (("GenuineIntel", 6, 0x6A, 6), "Ice Lake server"),
        (("GenuineIntel", 6, 0x8F, 8), "Sapphire Rapids"),
        (("GenuineIntel", 6, 0xCF, 2), "Emerald Rapids"),
        (("GenuineIntel", 6, 0x97, 2, "cpu_core"), "Golden Cove"),
        (("GenuineIntel", 6, 0xB7, 1, "cpu_atom"), "Gracemont"),
        (("GenuineIntel", 6, 0x97, 2, "cpu"), None),
        (("GenuineIntel", 6, 0xFE, 0), None),
        (("GenuineIntel", 15, 0x4F, 1), None),
        (("AuthenticAMD", 0x17, 0x01, 2), "Zen 1"),
        (("AuthenticAMD", 0x17, 0x31, 0), "Zen 2"),
        (("AuthenticAMD", 0x19, 0x01, 1), "Zen 3"),
        (("AuthenticAMD", 0x19, 0x11, 1), "Zen 4"),
        (("AuthenticAMD", 0x19, 0x61, 2), "Zen 4"),
        (("AuthenticAMD", 0x1A, 0x02, 1), "Zen 5"),
        (("AuthenticAMD", 0x1A, 0x50, 0), None),
        (("HygonGenuine", 0x18, 0x01, 0), "Zen 1"),
        (("AuthenticAMD", 0x15, 0x02, 0), None),
        (("Shanghai", 7, 0x3B, 0), None),
    ],
)
def test_microarchitecture(cpu, kind):
    assert codes.microarchitecture(*cpu) == kind


@pytest.mark.parametrize(
    "midr, kind",
    [
        (0x413FD0C1, "Neoverse N1"),
        (0x411FD401, "Neoverse V1"),
        (0x410FD490, "Neoverse N2"),
        (0x410FD4F1, "Neoverse V2"),
        (0x410FD083, None),
        (0x480FD010, None),
    ],
)
def test_arm_core(midr, kind):
    assert codes.arm_core(midr) == kind


if __name__ == "__main__":  # the whole comparison, as a table
    library = Pfm()
    for kind in PMUS:
        for line in compare(library, kind):
            print(
                "%s | %s | %s | %#x | %s" % ((kind,) + line),
                DIFFERENT.get((kind, hex(line[2])), ""),
            )
