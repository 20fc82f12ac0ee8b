// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * LD_PRELOAD for a program that counts hardware events by syscall(2): software
 * events take their place, as in tests/softpmu.py, so that it runs without a PMU.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <linux/perf_event.h>
#include <stdarg.h>
#include <sys/syscall.h>
#include <unistd.h>

long syscall(long number, ...)
{
	/* cpu-clock for cycles, task-clock for instructions, others for the rest */
	static const int events[] = {0, 1, 2, 3, 6, 4, 5};
	long (*real)(long, ...) = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
	struct perf_event_attr *attr;
	long words[6];
	va_list list;

	va_start(list, number);
	for (int i = 0; i < 6; i++)
		words[i] = va_arg(list, long);
	va_end(list);
	attr = (struct perf_event_attr *)words[0];
	if (number == __NR_perf_event_open && attr->type == PERF_TYPE_HARDWARE) {
		attr->type = PERF_TYPE_SOFTWARE;
		attr->config = attr->config < 7 ? events[attr->config] : PERF_COUNT_SW_DUMMY;
	}
	return real(number, words[0], words[1], words[2], words[3], words[4], words[5]);
}
