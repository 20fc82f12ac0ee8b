# SPDX-License-Identifier: GPL-2.0-or-later
from crisis.memory import gfp

# The beginning of what Linux 6.18, 6.1 and a kernel that leaves names of constants in its format
# say.
NEW = (
    '"order=%d gfp_flags=%s", REC->order, (REC->gfp_flags) ? __print_flags(REC->gfp_flags, '
    '"|", {( unsigned long)'
    "(((( gfp_t)(((((1UL))) << (10))|((((1UL))) << (11)))) | (( gfp_t)((((1UL))) << (6))) | (( "
    "gfp_t)((((1UL))) << "
    '(7))))), "GFP_KERNEL"}, {( unsigned long)(( gfp_t)((((1UL))) << (8))), "__GFP_ZERO"}, {( '
    "unsigned long)"
    '(( gfp_t)((((1UL))) << (6))), "__GFP_IO"}, { 0, ((void *)0) } ) : "none"'
)
OLD = (
    "{( unsigned long)((( gfp_t)(0x400u|0x800u)) | (( gfp_t)0x40u) | (( gfp_t)0x80u)), "
    '"GFP_KERNEL"}, '
    "{( unsigned long)(((( gfp_t)(0x400u|0x800u)) | (( gfp_t)0x40u)) & ~(( "
    'gfp_t)(0x400u|0x800u))), "LESS"}, '
    '{( unsigned long)(( gfp_t)0x100u), "__GFP_ZERO"}'
)
NAMED = '{(unsigned long)(( gfp_t)((((1UL))) << (___GFP_ZERO_BIT))), "__GFP_ZERO"}'


def test_the_kernels_own_table():
    assert gfp.table(NEW) == [(0xCC0, "GFP_KERNEL"), (0x100, "__GFP_ZERO"), (0x40, "__GFP_IO")]
    assert gfp.table(OLD) == [(0xCC0, "GFP_KERNEL"), (0x40, "LESS"), (0x100, "__GFP_ZERO")]
    assert gfp.table(NAMED, {"___GFP_ZERO_BIT": 8}) == [(0x100, "__GFP_ZERO")]


def test_only_arithmetic_is_computed():
    assert gfp.table('{__import__("os").getpid(), "X"}, {(1UL) << foo, "Y"}, {9**9, "Z"}') == []


def test_arithmetic_is_that_of_c():
    for text, value in (
        ("1|2&6", 3),
        ("~1 & 0xf", 14),
        ("1 << 2 << 1", 8),
        ("(1|2) << 4", 48),
        ("6 & ~(2)", 4),
        ("~0", (1 << 64) - 1),
        ("1 << 1 | 1", 3),
        ("0x10 & 3 << 3", 16),
    ):
        assert gfp.table(f'{{{text}, "X"}}') == [(value, "X")], text
    for text in (
        "1 |",
        "(1",
        "1)",
        "1 2",
        "<< 1",
        "1 << 99",
        "1 << ~0",
        "()",
        "",
        "~",
        "(" * 99999,
        "0",
        "1 + 1",
    ):
        assert gfp.table(f'{{{text}, "X"}}, {{4, "Y"}}') == [(4, "Y")], text[:9]


def test_bits_of_btf_where_there_is_no_format():
    constants = {"___GFP_DMA_BIT": 0, "___GFP_ZERO_BIT": 8, "___GFP_LAST_BIT": 25}
    assert gfp.table("", constants) == [(1, "__GFP_DMA"), (0x100, "__GFP_ZERO")]


def test_names():
    table = gfp.table(NEW)
    assert gfp.names(0xCC0 | 0x100, table) == "GFP_KERNEL|__GFP_ZERO"
    assert gfp.names(0x40 | 0x8000, table) == "__GFP_IO|0x8000"
    assert gfp.names(0, table) == "none"
    assert gfp.names(0x10, []) == "0x10"
