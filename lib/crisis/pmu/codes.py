# SPDX-License-Identifier: GPL-2.0-or-later
"""Raw event codes of CPU cores: a small table for each microarchitecture, and which one a CPU is.

Why not the kernel's generic events: only cycles, instructions, branches and
branch misses mean the same everywhere, or nearly (ARM's branch-misses are
speculative).  cache-references is L2 on AMD and L1D on ARM, LLC-loads is
unsupported on AMD.  On x86 the four codes here are those that the kernel's
generic events have; those events themselves serve a CPU without a table.

A code is perf's config word: on Intel event, umask << 8, cmask << 24; on AMD
event bits 0-7 (8-11 at 32), umask << 8; on ARM the event number.  Sources:
  Intel  github.com/intel/perfmon, files XXX/events/*_core.json of the versions
         named in SOURCES
  AMD    Linux tools/perf/pmu-events/arch/x86/amdzen1 .. amdzen5 (from the PPRs);
         PMCx081 (L1I misses) is wrong on every Zen, as the commit that took it
         out of the kernel's amd_hw_cache_event_ids_f17h says: PMCx060 umask 10
         replaces it; PMCx040 is in no list since Zen 4: PMCx029 replaces it
  ARM    Linux tools/perf/pmu-events/arch/arm64/arm/neoverse-*, and the common
         events of the Arm Architecture Reference Manual (D13.11)
  RISC-V its cores have no codes in common, but the SBI specification's PMU
         extension has events that the kernel's generic ones are passed to
         (drivers/perf/riscv_pmu_sbi.c): a code is one of PERF_TYPE_HW_CACHE
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    _Table = dict[str, tuple[tuple[Any, ...], ...]]

__all__ = [
    "Code",
    "GENERIC",
    "IN_NO_TABLE",
    "RISCV",
    "SOURCES",
    "microarchitecture",
    "arm_core",
    "table",
]


class Code:
    """A raw event code.

    code: perf's config word.  name: the vendor's.
    divisor: of its count, to cycles from slots.  config1: perf's second config word.
    """

    __slots__ = ("code", "name", "divisor", "config1")

    def __init__(self, code: int, name: str, divisor: int = 1, config1: int = 0) -> None:
        self.code, self.name, self.divisor, self.config1 = code, name, divisor, config1


# Column: the arguments of Code, ..., whose counts are summed.
GENERIC = {"cycles": 0, "instructions": 1, "branches": 4, "branch_misses": 5}  # PERF_COUNT_HW_*
IN_NO_TABLE = {"bus_cycles": 6}  # the kernel's event on every CPU
RISCV = "RISC-V SBI"
_INTEL: _Table = {
    "cycles": ((0x3C, "CPU_CLK_UNHALTED.THREAD_P"),),
    "instructions": ((0xC0, "INST_RETIRED.ANY_P"),),
    "branches": ((0xC4, "BR_INST_RETIRED.ALL_BRANCHES"),),
    "branch_misses": ((0xC5, "BR_MISP_RETIRED.ALL_BRANCHES"),),
    "llc_refs": ((0x4F2E, "LONGEST_LAT_CACHE.REFERENCE"),),
    "llc_misses": ((0x412E, "LONGEST_LAT_CACHE.MISS"),),
}
_WALKS_08: _Table = {
    "dtlb_walks": (
        (0x0E08, "DTLB_LOAD_MISSES.WALK_COMPLETED"),
        (0x0E49, "DTLB_STORE_MISSES.WALK_COMPLETED"),
    ),
    "itlb_walks": ((0x0E85, "ITLB_MISSES.WALK_COMPLETED"),),
}
_STALLS_ANY: _Table = {
    "stalls": ((0x01A2, "RESOURCE_STALLS.ANY"),),
    "stalls_store": ((0x08A2, "RESOURCE_STALLS.SB"),),
}
_CODE_READS: _Table = {
    "l2i_hits": ((0xC424, "L2_RQSTS.CODE_RD_HIT"),),
    "l2i_misses": ((0x2424, "L2_RQSTS.CODE_RD_MISS"),),
}
_L2_ALL: _Table = {
    "l2_refs": ((0xFF24, "L2_RQSTS.REFERENCES"),),
    "l2_misses": ((0x3F24, "L2_RQSTS.MISS"),),
}
_L1D_UOPS: _Table = {
    "l1d_refs": ((0x81D0, "MEM_UOPS_RETIRED.ALL_LOADS"),),
    "l1d_misses": ((0x08D1, "MEM_LOAD_UOPS_RETIRED.L1_MISS"),),
}
_L1D_LOADS: _Table = {
    "l1d_refs": ((0x81D0, "MEM_INST_RETIRED.ALL_LOADS"),),
    "l1d_misses": ((0x08D1, "MEM_LOAD_RETIRED.L1_MISS"),),
}
_IVYBRIDGE = dict(
    _INTEL,
    **_L1D_UOPS,
    **_STALLS_ANY,
    l1i_misses=((0x0280, "ICACHE.MISSES"),),
    l2i_hits=((0x1024, "L2_RQSTS.CODE_RD_HIT"),),
    l2i_misses=((0x2024, "L2_RQSTS.CODE_RD_MISS"),),
    dtlb_walks=(
        (0x8208, "DTLB_LOAD_MISSES.WALK_COMPLETED"),
        (0x0249, "DTLB_STORE_MISSES.WALK_COMPLETED"),
    ),
    itlb_walks=((0x0285, "ITLB_MISSES.WALK_COMPLETED"),),
    dtlb_cycles=(
        (0x8408, "DTLB_LOAD_MISSES.WALK_DURATION"),
        (0x0449, "DTLB_STORE_MISSES.WALK_DURATION"),
    ),
    itlb_cycles=((0x0485, "ITLB_MISSES.WALK_DURATION"),),
    stalls_rs=((0x04A2, "RESOURCE_STALLS.RS"),),
    stalls_rob=((0x10A2, "RESOURCE_STALLS.ROB"),),
)
_HASWELL = dict(
    _INTEL,
    **_L1D_UOPS,
    **_L2_ALL,
    **_CODE_READS,
    **_WALKS_08,
    **_STALLS_ANY,
    l1i_misses=((0x0280, "ICACHE.MISSES"),),
    dtlb_cycles=(
        (0x1008, "DTLB_LOAD_MISSES.WALK_DURATION"),
        (0x1049, "DTLB_STORE_MISSES.WALK_DURATION"),
    ),
    itlb_cycles=((0x1085, "ITLB_MISSES.WALK_DURATION"),),
    stalls_rs=((0x04A2, "RESOURCE_STALLS.RS"),),
    stalls_rob=((0x10A2, "RESOURCE_STALLS.ROB"),),
)
_SKYLAKE = dict(
    _INTEL,
    **_L1D_LOADS,
    **_L2_ALL,
    **_CODE_READS,
    **_WALKS_08,
    **_STALLS_ANY,
    l1i_misses=((0x0283, "ICACHE_64B.IFTAG_MISS"),),
    dtlb_cycles=(
        (0x1001008, "DTLB_LOAD_MISSES.WALK_ACTIVE"),
        (0x1001049, "DTLB_STORE_MISSES.WALK_ACTIVE"),
    ),
    itlb_cycles=((0x1001085, "ITLB_MISSES.WALK_ACTIVE"),),
)
_STALLS_SCOREBOARD: _Table = {
    "stalls_store": ((0x08A2, "RESOURCE_STALLS.SB"),),
    "stalls_other": ((0x02A2, "RESOURCE_STALLS.SCOREBOARD"),),
}
_ICELAKE = dict(_SKYLAKE, **_STALLS_SCOREBOARD)
del _ICELAKE["stalls"]  # RESOURCE_STALLS.ANY ended with Cascade Lake
_ICELAKE_X = dict(  # the server's list has the demand events only
    _ICELAKE,
    l2_refs=((0xE724, "L2_RQSTS.ALL_DEMAND_REFERENCES"),),
    l2_misses=((0x2724, "L2_RQSTS.ALL_DEMAND_MISS"),),
)
_GOLDEN_COVE = dict(
    _INTEL,
    **_L1D_LOADS,
    **_L2_ALL,
    **_CODE_READS,
    **_STALLS_SCOREBOARD,
    l1i_misses=((0x01C6, "FRONTEND_RETIRED.L1I_MISS", 1, 0x12),),
    dtlb_walks=(
        (0x0E12, "DTLB_LOAD_MISSES.WALK_COMPLETED"),
        (0x0E13, "DTLB_STORE_MISSES.WALK_COMPLETED"),
    ),
    itlb_walks=((0x0E11, "ITLB_MISSES.WALK_COMPLETED"),),
    dtlb_cycles=(
        (0x1001012, "DTLB_LOAD_MISSES.WALK_ACTIVE"),
        (0x1001013, "DTLB_STORE_MISSES.WALK_ACTIVE"),
    ),
    itlb_cycles=((0x1001011, "ITLB_MISSES.WALK_ACTIVE"),),
)
_REDWOOD_COVE = dict(_GOLDEN_COVE, l1i_misses=((0x03C6, "FRONTEND_RETIRED.L1I_MISS", 1, 0x12),))
_LION_COVE = dict(_REDWOOD_COVE, l2i_hits=((0x4424, "L2_RQSTS.CODE_RD_HIT"),))
del _LION_COVE["stalls_store"], _LION_COVE["stalls_other"]
_GRACEMONT = dict(
    _INTEL,
    **_L1D_UOPS,
    **_WALKS_08,
    l1i_misses=((0x0280, "ICACHE.MISSES"),),
    l2_refs=((0x0024, "L2_REQUEST.ALL"),),
    l2_misses=((0x0124, "L2_REQUEST.MISS"),),
)
_CRESTMONT = dict(
    _GRACEMONT,
    l1d_misses=((0x40D1, "MEM_LOAD_UOPS_RETIRED.L1_MISS"),),
    l2_refs=((0x0124, "L2_REQUEST.MISS"), (0x0224, "L2_REQUEST.HIT")),
)
_SKYMONT = dict(_CRESTMONT, l2_refs=((0x0724, "L2_REQUEST.ALL"),))
_ZEN: _Table = {
    "cycles": ((0x76, "ls_not_halted_cyc"),),
    "instructions": ((0xC0, "ex_ret_instr"),),
    "branches": ((0xC2, "ex_ret_brn"),),
    "branch_misses": ((0xC3, "ex_ret_brn_misp"),),
    "l3:llc_refs": ((0xFF04, "l3_lookup_state.all_l3_req_typs"),),
    "l3:llc_misses": ((0x0106, "l3_comb_clstr_state.request_miss"),),
    "l1d_refs": ((0x40, "ls_dc_accesses"),),
    "l1d_misses": ((0xC860, "l2_request_g1.dc (reads, stores, change to writable)"),),
    "l2_refs": (
        (0xF960, "l2_request_g1.all_no_prefetch"),
        (0xFF70, "l2_pf_hit_l2"),
        (0xFF71, "l2_pf_miss_l2_hit_l3"),
        (0xFF72, "l2_pf_miss_l2_l3"),
    ),
    "l2_misses": (
        (0x0964, "l2_cache_req_stat.ic_dc_miss_in_l2"),
        (0xFF71, "l2_pf_miss_l2_hit_l3"),
        (0xFF72, "l2_pf_miss_l2_l3"),
    ),
    "l1i_misses": ((0x1060, "l2_request_g1.cacheable_ic_read"),),
    "l2i_hits": ((0x0664, "l2_cache_req_stat.ic_hit_in_l2"),),
    "l2i_misses": ((0x0164, "l2_cache_req_stat.ic_fill_miss"),),
    "dtlb_walks": ((0xF045, "ls_l1_d_tlb_miss.all_l2_miss"),),
}
_TOKENS = "de_dis_dispatch_token_stalls"
_ZEN1 = dict(
    _ZEN,
    itlb_walks=((0x85, "bp_l1_tlb_miss_l2_miss"),),
    stalls_rs=((0x3FAF, _TOKENS + "0: ALU, AGSQ, ALSQ 1 to 3"),),
    stalls_rob=((0x40AF, _TOKENS + "0.retire_token_stall"),),
)
_ZEN2 = dict(
    _ZEN,
    itlb_walks=((0x0785, "bp_l1_tlb_miss_l2_tlb_miss"),),
    stalls_load=((0x02AE, _TOKENS + "1.load_queue_token_stall"),),
    stalls_store=((0x04AE, _TOKENS + "1.store_queue_token_stall"),),
    stalls_fp=((0xE0AE, _TOKENS + "1: FP registers, scheduler, miscellaneous"),),
    stalls_other=((0x19AE, _TOKENS + "1: integer registers, miscellaneous, taken branch buffer"),),
    stalls_rs=((0x5FAF, _TOKENS + "0: ALU, AGSQ, ALSQ 1 to 3, SC AGU"),),
    stalls_rob=((0x20AF, _TOKENS + "0.retire_token_stall"),),
)
_ZEN3 = dict(
    _ZEN2,
    l1d_misses=((0xE860, "l2_request_g1.all_dc"),),
    l1i_misses=((0x10000188E, "ic_tag_hit_miss.instruction_cache_miss"),),
    itlb_walks=((0x0F85, "bp_l1_tlb_miss_l2_tlb_miss"),),
    stalls_rs=((0x1FAF, _TOKENS + "2: integer scheduler 0 to 3, AGSQ"),),
    stalls_rob=((0x20AF, _TOKENS + "2.retire_token_stall"),),
)
_ZEN4 = {
    **_ZEN3,
    **{
        "l3:llc_refs": ((0xFF04, "l3_lookup_state.all_coherent_accesses_to_l3"),),
        "l3:llc_misses": ((0x0104, "l3_lookup_state.l3_miss"),),
        "l1d_refs": ((0x0729, "ls_dispatch.all"),),
        "stalls": ((0x100001EA0, "de_no_dispatch_per_slot.backend_stalls", 6),),
        "stalls_other": ((0x11AE, _TOKENS + "1: integer registers, taken branch buffer"),),
        "stalls_rs": ((0x0FAF, _TOKENS + "2: integer scheduler 0 to 3"),),
    },
}
_PART1, _PART2 = (f"de_dispatch_stall_cycle_dynamic_tokens_part{n}" for n in (1, 2))
_ZEN5 = dict(
    _ZEN4,
    l2_refs=(
        (0xF960, "l2_request_g1.all_no_prefetch"),
        (0x1F70, "l2_pf_hit_l2.l2_hwpf"),
        (0x1F71, "l2_pf_miss_l2_hit_l3.l2_hwpf"),
        (0x1F72, "l2_pf_miss_l2_l3.l2_hwpf"),
    ),
    l2_misses=(
        (0x0964, "l2_cache_req_stat.ic_dc_miss_in_l2"),
        (0x1F71, "l2_pf_miss_l2_hit_l3.l2_hwpf"),
        (0x1F72, "l2_pf_miss_l2_l3.l2_hwpf"),
    ),
    stalls=((0x100001EA0, "de_no_dispatch_per_slot.backend_stalls", 8),),
    stalls_load=((0x02AE, _PART1 + ".load_queue_rsrc_stall"),),
    stalls_store=((0x04AE, _PART1 + ".store_queue_rsrc_stall"),),
    stalls_fp=((0x40AE, _PART1 + ".fp_sch_rsrc_stall"),),
    stalls_other=((0x11AE, _PART1 + ": integer registers, taken branch buffer"),),
    stalls_rs=((0x03AF, _PART2 + ": ALU, AGU tokens"),),
    stalls_rob=((0x20AF, _PART2 + ".retq"),),
)
_NEOVERSE_N1: _Table = {
    "cycles": ((0x11, "CPU_CYCLES"),),
    "instructions": ((0x08, "INST_RETIRED"),),
    "branches": ((0x21, "BR_RETIRED"),),
    "branch_misses": ((0x22, "BR_MIS_PRED_RETIRED"),),
    "llc_refs": ((0x36, "LL_CACHE_RD"),),
    "llc_misses": ((0x37, "LL_CACHE_MISS_RD"),),
    "l1d_refs": ((0x04, "L1D_CACHE"),),
    "l1d_misses": ((0x03, "L1D_CACHE_REFILL"),),
    "l2_refs": ((0x16, "L2D_CACHE"),),
    "l2_misses": ((0x17, "L2D_CACHE_REFILL"),),
    "l1i_misses": ((0x01, "L1I_CACHE_REFILL"),),
    "dtlb_walks": ((0x34, "DTLB_WALK"),),
    "itlb_walks": ((0x35, "ITLB_WALK"),),
    "stalls": ((0x24, "STALL_BACKEND"),),
    "stalls_frontend": ((0x23, "STALL_FRONTEND"),),
}
_NEOVERSE_V1 = dict(_NEOVERSE_N1, stalls_memory=((0x4005, "STALL_BACKEND_MEM"),))
# Which cache | operation << 8 | miss << 16: perf_hw_cache_id, perf_hw_cache_op_id,
# perf_hw_cache_op_result_id.
_RISCV: _Table = {
    "l1d_refs": ((0x00000, "L1-dcache-loads"), (0x00100, "L1-dcache-stores")),
    "l1d_misses": ((0x10000, "L1-dcache-load-misses"), (0x10100, "L1-dcache-store-misses")),
    "l1i_misses": ((0x10001, "L1-icache-load-misses"),),
    "llc_refs": ((0x00002, "LLC-loads"), (0x00102, "LLC-stores")),
    "llc_misses": ((0x10002, "LLC-load-misses"), (0x10102, "LLC-store-misses")),
    "dtlb_walks": ((0x10003, "dTLB-load-misses"), (0x10103, "dTLB-store-misses")),
    "itlb_walks": ((0x10004, "iTLB-load-misses"),),
}
TABLES: dict[str, _Table] = {
    "Ivy Bridge": _IVYBRIDGE,
    "Haswell": _HASWELL,
    "Broadwell": _HASWELL,
    "Skylake": _SKYLAKE,
    "Cascade Lake": _SKYLAKE,
    "Ice Lake": _ICELAKE,
    "Ice Lake server": _ICELAKE_X,
    "Tiger Lake": _ICELAKE,
    "Rocket Lake": _ICELAKE,
    "Sapphire Rapids": _GOLDEN_COVE,
    "Emerald Rapids": _GOLDEN_COVE,
    "Granite Rapids": _REDWOOD_COVE,
    "Golden Cove": _GOLDEN_COVE,
    "Redwood Cove": _REDWOOD_COVE,
    "Lion Cove": _LION_COVE,
    "Gracemont": _GRACEMONT,
    "Crestmont": _CRESTMONT,
    "Skymont": _SKYMONT,
    "Zen 1": _ZEN1,
    "Zen 2": _ZEN2,
    "Zen 3": _ZEN3,
    "Zen 4": _ZEN4,
    "Zen 5": _ZEN5,
    "Neoverse N1": _NEOVERSE_N1,
    "Neoverse V1": _NEOVERSE_V1,
    "Neoverse N2": _NEOVERSE_V1,
    "Neoverse V2": _NEOVERSE_V1,
    RISCV: _RISCV,
}
SOURCES = {
    "Ivy Bridge": "IVT V24",
    "Haswell": "HSX V29",
    "Broadwell": "BDX V23",
    "Skylake": "SKX V1.37, SKL V59",
    "Cascade Lake": "CLX V1.25",
    "Ice Lake": "ICL V1.24",
    "Ice Lake server": "ICX V1.30",
    "Tiger Lake": "TGL V1.19",
    "Rocket Lake": "RKL V1.04",
    "Sapphire Rapids": "SPR V1.39",
    "Emerald Rapids": "EMR V1.24",
    "Granite Rapids": "GNR V1.20",
    "Golden Cove": "ADL V1.40",
    "Redwood Cove": "MTL V1.22",
    "Lion Cove": "LNL V1.26",
    "Gracemont": "ADL V1.40",
    "Crestmont": "MTL V1.22, SRF V1.18",
    "Skymont": "LNL V1.26",
    "Zen 1": "amdzen1",
    "Zen 2": "amdzen2",
    "Zen 3": "amdzen3",
    "Zen 4": "amdzen4",
    "Zen 5": "amdzen5",
    "Neoverse N1": "neoverse-n1",
    "Neoverse V1": "neoverse-v1",
    "Neoverse N2": "neoverse-n2-v2",
    "Neoverse V2": "neoverse-n2-v2",
    RISCV: "SBI 1.0, chapter 11",
}
# GenuineIntel family 6: intel/perfmon mapfile.csv.  Of a hybrid CPU: (core, atom).
_INTEL_MODELS: dict[str | tuple[str, str], tuple[int, ...]] = {
    "Ivy Bridge": (0x3A, 0x3E),
    "Haswell": (0x3C, 0x45, 0x46, 0x3F),
    "Broadwell": (0x3D, 0x47, 0x4F, 0x56),
    "Skylake": (0x4E, 0x5E, 0x8E, 0x9E, 0xA5, 0xA6, 0x55),
    "Ice Lake": (0x7D, 0x7E),
    "Ice Lake server": (0x6A, 0x6C),
    "Tiger Lake": (0x8C, 0x8D),
    "Rocket Lake": (0xA7,),
    "Sapphire Rapids": (0x8F,),
    "Emerald Rapids": (0xCF,),
    "Granite Rapids": (0xAD, 0xAE),
    "Gracemont": (0xBE,),
    "Crestmont": (0xAF, 0xB6),
    ("Golden Cove", "Gracemont"): (0x97, 0x9A, 0xB7, 0xBA, 0xBF),
    ("Redwood Cove", "Crestmont"): (0xAA, 0xAC, 0xB5),
    ("Lion Cove", "Skymont"): (0xBD, 0xC5, 0xC6),
}
# bsp_init_amd() in arch/x86/kernel/cpu/amd.c; Hygon's family 18h is a Zen 1.
_AMD_MODELS: dict[int, tuple[tuple[Any, ...], ...]] = {
    0x17: (
        ("Zen 1", (0x00, 0x2F), (0x50, 0x5F)),
        ("Zen 2", (0x30, 0x4F), (0x60, 0x7F), (0x90, 0x91), (0xA0, 0xAF)),
    ),
    0x18: (("Zen 1", (0x00, 0x0F)),),
    0x19: (("Zen 3", (0x00, 0x0F), (0x20, 0x5F)), ("Zen 4", (0x10, 0x1F), (0x60, 0xAF))),
    0x1A: (("Zen 5", (0x00, 0x2F), (0x40, 0x4F), (0x60, 0x7F)),),
}
_ARM_PARTS = {
    0xD0C: "Neoverse N1",
    0xD40: "Neoverse V1",
    0xD49: "Neoverse N2",
    0xD4F: "Neoverse V2",
}


def microarchitecture(
    vendor: str, family: int, model: int, stepping: int = 0, pmu: str = "cpu"
) -> str | None:
    """The name in TABLES of an x86 CPU, by CPUID's numbers, as in /proc/cpuinfo.

    None when it is not known.

    pmu: cpu_core or cpu_atom on a hybrid CPU.
    """
    if vendor == "GenuineIntel" and family == 6:
        if model == 0x55 and stepping >= 5:
            return "Cascade Lake"
        for name, models in _INTEL_MODELS.items():
            if model in models:
                if isinstance(name, str):
                    return name
                return {"cpu_core": name[0], "cpu_atom": name[1]}.get(pmu)
    elif vendor in ("AuthenticAMD", "HygonGenuine"):
        for core, *ranges in _AMD_MODELS.get(family, ()):
            if any(low <= model <= high for low, high in ranges):
                return str(core)
    return None


def arm_core(midr: int) -> str | None:
    """The name in TABLES of an ARM core by its MIDR_EL1; None when it is not known."""
    if midr >> 24 & 0xFF == 0x41:  # implementer Arm
        return _ARM_PARTS.get(midr >> 4 & 0xFFF)
    return None


def table(name: str) -> dict[str, tuple[Code, ...]]:
    """{column: codes whose counts are summed} of a microarchitecture.

    A column of the shared L3's PMU is named "l3:..."; what a CPU cannot count has no column.
    """
    return {
        column: tuple(Code(*event) for event in found) for column, found in TABLES[name].items()
    }
