/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Histograms: the bucket of a value, and times in fixed point.  crisis.hist is the other side. */
#ifndef CRISIS_HIST_BPF_H
#define CRISIS_HIST_BPF_H

/*
 * floor(log2(v)) for v < 2^63, 0 for 0.  Without branches, since the verifier would follow both
 * sides of each.
 */
static __always_inline u64 log2_u64(u64 v)
{
	u64 r, s;

	r = (0xffffffffULL - v) >> 63 << 5;
	v >>= r;
	s = (0xffffULL - v) >> 63 << 4;
	v >>= s;
	r |= s;
	s = (0xffULL - v) >> 63 << 3;
	v >>= s;
	r |= s;
	s = (0xfULL - v) >> 63 << 2;
	v >>= s;
	r |= s;
	s = (3ULL - v) >> 63 << 1;
	v >>= s;
	r |= s;
	return r | v >> 1;
}

/*
 * Nanoseconds in fixed point, in 2^-10 of a microsecond or millisecond: see hist.FRACTION.  A
 * division costs more than the rest of a histogram's update; for times that fit in 32 bits of
 * nanoseconds a multiplication replaces it.
 */
static __always_inline u64 fixed_us(u64 ns)
{
	return ns >> 32 ? ns * 128 / 125 : ns * 2199023256ULL >> 31;
}

static __always_inline u64 fixed_ms(u64 ns)
{
	return ns * 16 / 15625;
}

/* The bucket of v in a histogram with 2^shift buckets per power of two: see hist.bucket(). */
#define LOG_LINEAR(v, shift)                                       \
	({                                                         \
		u64 __x = (v), __s = (shift), __o = log2_u64(__x); \
		__o = (__o - __s) & ((__s - __o) >> 63) * ~0ULL;   \
		(__o << __s) + (__x >> __o);                       \
	})

/*
 * Make `slot` a valid index of `slots` buckets, of which there are at most mask + 1 (a power of
 * two); larger values count in the last one.  No slot is above the mask.  But the verifier of Linux
 * 6.1 also follows paths that cannot be taken, on which the bounds that it tracks contradict each
 * other, and refuses the program there; the mask resets these bounds.
 */
#define BOUND_SLOT(slot, slots, mask)                      \
	do {                                               \
		asm volatile("%0 &= " #mask : "+r"(slot)); \
		if (slot >= slots)                         \
			slot = slots - 1;                  \
		barrier_var(slot);                         \
	} while (0)

/*
 * Raise a maximum that other CPUs may write at the same time.  Where two do so at once, the one
 * with the larger value sees the smaller one in its place and writes again.
 */
static __always_inline void raise_max(u64 *max, u64 value)
{
	if (value > *max) {
		*max = value;
		if (value > *(volatile u64 *)max)
			*max = value;
	}
}

#endif
