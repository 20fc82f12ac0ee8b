# SPDX-License-Identifier: GPL-2.0-or-later
"""The base, set and turbo clocks of a CPU, from CPUID, registers, cpufreq and ACPI CPPC.

Follows the Intel SDM volume 4 (MSR_PLATFORM_INFO, MSR_TURBO_RATIO_LIMIT), the
AMD64 APM volume 2 (P-states) and drivers/cpufreq.
"""

from __future__ import annotations

from ..errors import NotPermitted, Unavailable
from ..perf.event_source import pmu_cpus
from . import freq, info, msr

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .clock import Counters
    from .info import Processor
    from .msr import Registers

__all__ = ["Clocks", "base_clocks", "turbo_steps"]


class Clocks:
    """The clocks of one CPU; None for what is unknown.

    base: MHz, and source: what states it.  set: MHz that cpufreq has set.
    turbo: as turbo_steps gives them.  boost: as freq.boost gives it.
    """

    def __init__(
        self, cpu: int, counters: Counters, log: Callable[[str], None], root: str = "/"
    ) -> None:
        """counters: measure the rate of the TSC where nothing states the base clock.

        log: called with each base clock that is stated, and with what could not be read.
        """
        self.cpu, processor = cpu, info.identify(root)
        registers: Registers | None = None
        try:
            readable = msr.Registers(root)
            readable.read(cpu, msr.IA32_TSC)
            registers = readable
        except (Unavailable, NotPermitted) as exc:
            log(f"no base and turbo clocks from registers: {exc}")
        found: list[tuple[str, float | None]] = []
        for name, mhz in base_clocks(cpu, processor, registers, root):
            log(f"base clock by {name}: {mhz:.1f} MHz")
            found.append((name, mhz))
        if not found and counters.tsc:
            found = [("TSC", counters.measure_tsc(cpu))]
        self.source: str | None = None
        self.base: float | None = None
        for name, known in found:
            if known:
                self.source, self.base = name, known
                break
        self.set = freq.cpufreq(cpu, root).get("now")
        self.turbo = turbo_steps(cpu, processor, registers, self.base, root)
        self.boost = freq.boost(root)

    def turbo_clocks(self) -> list[float]:
        """The turbo clocks in MHz, each once where several numbers of cores share it."""
        found: list[float] = []
        for _, mhz in self.turbo:
            if not found or found[-1] != mhz:
                found.append(mhz)
        return found


def base_clocks(
    cpu: int, processor: Processor, registers: Registers | None, root: str = "/"
) -> list[tuple[str, float]]:
    """[(source, MHz)] of what states the base clock, the best first.

    registers: what reads them, or None.
    """
    found: list[tuple[str, float | None]] = []
    intel = processor.vendor == "GenuineIntel"
    if intel:
        leaves = msr.cpuid(cpu, 0, root=root)
        if leaves and leaves[0] >= 0x16:
            found.append(("CPUID 16h", msr.processor_mhz(msr.cpuid(cpu, 0x16, root=root))))
    if registers and intel:
        value = registers.read(cpu, msr.PLATFORM_INFO)
        if value is not None:
            mhz = msr.platform_mhz(value, processor.family, processor.model)
            found.append(("MSR 0xce", mhz))
    elif registers and processor.vendor in ("AuthenticAMD", "HygonGenuine"):
        value = registers.read(cpu, msr.AMD_PSTATE0)
        if value is not None:
            found.append(("MSR 0xc0010064", msr.pstate_mhz(value, processor.family)))
    found.append(("cpufreq base_frequency", freq.cpufreq(cpu, root).get("base")))
    nominal = freq.cppc(cpu, root).get("nominal_freq", 0)
    found.append(("CPPC nominal_freq", float(nominal)))
    return [(name, mhz) for name, mhz in found if mhz]


def turbo_steps(
    cpu: int, processor: Processor, registers: Registers | None, base: float | None, root: str = "/"
) -> list[tuple[int | None, float]]:
    """[(active cores or None, MHz)] from the most active cores to the fewest, so from slow to fast.

    A CPU that does not show the steps has one at most, cpufreq's or CPPC's highest clock.
    base: MHz, or None.
    """
    intel = processor.vendor == "GenuineIntel"
    bus = msr.bus_mhz(processor.family, processor.model) if intel else None
    if registers and bus:
        first: tuple[int, ...] = msr.TURBO_RATIO_LIMITS
        if cpu in (pmu_cpus("cpu_atom", root) or ()):
            first = (msr.SECONDARY_TURBO_RATIO_LIMIT,)
        values = {msr.TURBO_RATIO_LIMITS[0]: registers.read(cpu, first[0])}
        values.update((address, registers.read(cpu, address)) for address in first[1:])
        steps = msr.turbo_ratios(processor.model, values)
        if steps:
            return [(cores, ratio * bus) for cores, ratio in reversed(steps)]
    top = freq.cpufreq(cpu, root).get("top")
    cppc = freq.cppc(cpu, root)
    if not top and cppc.get("nominal_perf") and cppc.get("nominal_freq") and "highest_perf" in cppc:
        top = cppc["nominal_freq"] * cppc["highest_perf"] / cppc["nominal_perf"]
    return [(None, top)] if top and base and top > base else []
