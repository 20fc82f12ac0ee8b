# SPDX-License-Identifier: GPL-2.0-or-later
"""Model specific registers and CPUID of a CPU: reading them, and decoding what they hold.

Reading goes through the msr and cpuid drivers' /dev/cpu/N, and nothing here
ever writes a register.  Decoding is pure: it takes numbers.  Follows the
Intel SDM volume 4 (model specific registers), the AMD64 APM volume 2 and the
Processor Programming References of families 17h, 19h and 1Ah.
"""

from __future__ import annotations

import os
import struct

from ..errors import NotPermitted, Unavailable
from ..kernel import proc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "IA32_TSC",
    "IA32_MPERF",
    "IA32_APERF",
    "PLATFORM_INFO",
    "THERM_STATUS",
    "TEMPERATURE_TARGET",
    "PACKAGE_THERM_STATUS",
    "TURBO_RATIO_LIMITS",
    "SECONDARY_TURBO_RATIO_LIMIT",
    "AMD_PSTATE0",
    "Registers",
    "cpuid",
    "bus_mhz",
    "platform_mhz",
    "processor_mhz",
    "pstate_mhz",
    "turbo_ratios",
    "THERMAL_FLAGS",
    "thermal_status",
    "tj_max",
    "thermal_flags",
]

IA32_TSC, IA32_MPERF, IA32_APERF = 0x10, 0xE7, 0xE8
PLATFORM_INFO = 0xCE
THERM_STATUS, TEMPERATURE_TARGET, PACKAGE_THERM_STATUS = 0x19C, 0x1A2, 0x1B1
TURBO_RATIO_LIMITS = 0x1AD, 0x1AE, 0x1AF
SECONDARY_TURBO_RATIO_LIMIT = 0x650  # of the efficient cores of a hybrid CPU
AMD_PSTATE0 = 0xC0010064


class Registers:
    """The registers of each CPU, by the msr driver (arch/x86/kernel/msr.c)."""

    def __init__(self, root: str = "/") -> None:
        self._root = root
        self._fds: dict[int, int] = {}

    def _open(self, cpu: int) -> int:
        path = f"/dev/cpu/{cpu}/msr"
        try:
            return os.open(os.path.join(self._root, path[1:]), os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            if proc.kernel_option("CONFIG_X86_MSR", self._root, module=True) is False:
                raise Unavailable(
                    f"there is no {path}: the kernel was built without CONFIG_X86_MSR"
                ) from None
            raise Unavailable(f"there is no {path}. Try: modprobe msr") from None
        except PermissionError:
            raise NotPermitted(
                f"{path} cannot be opened: that needs root with CAP_SYS_RAWIO"
            ) from None
        except OSError as exc:  # EIO: no MSRs at all; ENXIO: the CPU is offline
            raise Unavailable(f"{path}: {exc.strerror}") from None

    def read(self, cpu: int, register: int) -> int | None:
        """The 64-bit value; None where this CPU refuses the register, or has gone offline.

        Raises Unavailable without the device, NotPermitted where it may not be opened.
        """
        fd = self._fds.get(cpu)
        if fd is None:
            fd = self._fds[cpu] = self._open(cpu)
        try:
            return int(struct.unpack("=Q", os.pread(fd, 8, register))[0])
        except PermissionError:  # a security module; lockdown itself lets reads through
            raise NotPermitted(f"register 0x{register:x} of CPU {cpu} cannot be read") from None
        except (OSError, struct.error):  # EIO: the CPU raised #GP; ENXIO: the CPU is offline
            return None


def cpuid(
    cpu: int, leaf: int, subleaf: int = 0, root: str = "/"
) -> tuple[int, int, int, int] | None:
    """(eax, ebx, ecx, edx) of a CPUID leaf, through /dev/cpu/N/cpuid.

    None without that device or the privileges to open it.

    arch/x86/kernel/cpuid.c: the position is the leaf, and the subleaf in its upper half.
    """
    try:
        fd = os.open(os.path.join(root, f"dev/cpu/{cpu}/cpuid"), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        eax, ebx, ecx, edx = struct.unpack("=IIII", os.pread(fd, 16, leaf | subleaf << 32))
        return eax, ebx, ecx, edx
    except (OSError, struct.error):
        return None
    finally:
        os.close(fd)


# Model numbers of family 6, as arch/x86/include/asm/intel-family.h names them.
_BUS_133 = {0x1A, 0x1E, 0x1F, 0x2E, 0x25, 0x2C, 0x2F}  # Nehalem, Westmere
_BUS_OTHER = {0x37, 0x4A, 0x4D, 0x5A, 0x5D, 0x4C, 0x75}  # Silvermont, Airmont: a table in 0xcd
_NO_RATIOS = {0x2E, 0x2F, 0x57, 0x85} | _BUS_OTHER  # none, or another layout (Xeon Phi)
_MORE_RATIOS = {0x3E: 2, 0x3F: 3, 0x4F: 2, 0x56: 2}  # Ivy Bridge-EP, Haswell-EP, Broadwell
# Goldmont, Tremont
_CORE_COUNTS = {
    0x55,
    0x6A,
    0x6C,
    0x8F,
    0xCF,
    0xAD,
    0xAE,
    0xAF,
    0xB6,
    0xDD,  # Skylake-SP ... Granite Rapids
    0x5C,
    0x5F,
    0x7A,
    0x86,
    0x96,
    0x9C,
}


def bus_mhz(family: int | None, model: int | None) -> float | None:
    """MHz of an Intel CPU's ratio unit; None where a table would be needed to know it."""
    if family != 6 or model in _BUS_OTHER:
        return None
    return 400 / 3 if model in _BUS_133 else 100.0


def platform_mhz(value: int, family: int | None, model: int | None) -> float | None:
    """Base MHz (maximum non-turbo ratio) in MSR_PLATFORM_INFO.

    None when it holds none (0 under KVM).
    """
    bus, ratio = bus_mhz(family, model), value >> 8 & 0xFF
    return ratio * bus if bus and ratio else None


def processor_mhz(leaf: tuple[int, int, int, int] | None) -> float | None:
    """Base MHz in CPUID leaf 16h as cpuid() gives it; None when it holds none."""
    return float(leaf[0] & 0xFFFF) or None if leaf else None


def pstate_mhz(value: int, family: int | None) -> float | None:
    """MHz of an AMD P-state register of family 17h and later.

    None for one that is not enabled or not known.
    """
    if not value >> 63:
        return None
    if family is not None and family >= 0x1A:
        return (value & 0xFFF) * 5.0 or None
    divisor = value >> 8 & 0x3F
    if family not in (0x17, 0x18, 0x19) or not divisor:
        return None
    return (value & 0xFF) * 200.0 / divisor or None


def turbo_ratios(
    model: int | None, registers: Mapping[int, int | None]
) -> list[tuple[int | None, int]]:
    """[(active cores or None, ratio)] of an Intel CPU, from the fewest active cores to the most.

    model: of family 6.  registers: {0x1ad: value or None, 0x1ae: …, 0x1af: …}.
    A model that is not known has one register of ratios, by active cores.
    """
    limits = registers.get(0x1AD)
    if not limits or model in _NO_RATIOS:
        return []
    ratios = list(limits.to_bytes(8, "little"))
    if model in _CORE_COUNTS:
        cores = registers.get(0x1AE)
        counts: list[int | None] = list(cores.to_bytes(8, "little")) if cores else [None] * 8
        steps = list(zip(counts, ratios))
    else:
        for address in TURBO_RATIO_LIMITS[1 : _MORE_RATIOS.get(model or 0, 1)]:
            value = (registers.get(address) or 0) & (1 << 63) - 1  # bit 63 is a semaphore
            ratios += value.to_bytes(8, "little")
        steps = list(enumerate(ratios, 1))
    return [(cores, ratio) for cores, ratio in steps if ratio and cores != 0]


THERMAL_FLAGS = tuple(
    "thermal thermal_log prochot prochot_log critical critical_log threshold1"
    " threshold1_log threshold2 threshold2_log power_limit power_limit_log current_limit"
    " current_limit_log cross_domain cross_domain_log".split()
)


def thermal_status(value: int) -> tuple[int | None, int]:
    """(degrees below TjMax, or None when the reading is not valid; flags) of IA32_THERM_STATUS.

    Bit 31 is set when the reading is valid; IA32_PACKAGE_THERM_STATUS has no such bit.
    """
    return (value >> 16 & 0x7F if value >> 31 & 1 else None), value & 0xFFFF


def tj_max(value: int | None) -> int | None:
    """Degrees Celsius at which the CPU throttles itself, of MSR_TEMPERATURE_TARGET.

    None when it holds none.
    """
    return value >> 16 & 0xFF or None if value else None


def thermal_flags(flags: int) -> list[str]:
    """Names of the set bits that limited the CPU.

    Thresholds, which software sets for itself, are left out.
    """
    return [
        name
        for bit, name in enumerate(THERMAL_FLAGS)
        if flags >> bit & 1 and not name.startswith("threshold")
    ]
