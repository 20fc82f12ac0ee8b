/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Fields of a tracepoint's record, at places known from its format file: no BTF is needed. */
#ifndef CRISIS_FIELD_BPF_H
#define CRISIS_FIELD_BPF_H

/* place: offset << 8 | size in bytes, from bpf.field_places() */
static __always_inline u64 read_field(void *ctx, u64 place)
{
	u64 value = 0;

	bpf_probe_read_kernel(&value, place & 0xff, ctx + (place >> 8));
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
	value >>= 64 - 8 * (place & 0xff);
#endif
	return value;
}

#endif
