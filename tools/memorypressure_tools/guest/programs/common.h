/* What the programs share: clocks, reading whole files, stopping on TERM. */
#ifndef COMMON_H
#define COMMON_H

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define PAGE_BYTES 4096L
#define MIB (1L << 20)

/* The boot-time clock, which is the one of the agent's journal. */
static inline double now_seconds(void)
{
	struct timespec t;
	clock_gettime(CLOCK_BOOTTIME, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static inline void sleep_seconds(double seconds)
{
	struct timespec t = { (time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9) };
	if (seconds > 0)
		nanosleep(&t, NULL);
}

static volatile sig_atomic_t stopped;

static inline void on_stop(int number)
{
	(void)number;
	stopped = 1;
}

/* TERM and INT end the loop of a program, which then writes what it measured. */
static inline void stop_on_signals(void)
{
	struct sigaction action = { .sa_handler = on_stop };
	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGINT, &action, NULL);
}

static inline double number_argument(char **arguments, int index, const char *name)
{
	char *end;
	double value = strtod(arguments[index], &end);
	if (end == arguments[index] || *end || value < 0) {
		fprintf(stderr, "%s: not a number of at least 0: %s\n", name, arguments[index]);
		exit(2);
	}
	return value;
}

static inline void usage(int argc, int least, const char *text)
{
	if (argc - 1 < least) {
		fprintf(stderr, "usage: %s\n", text);
		exit(2);
	}
}

static inline void die(const char *what)
{
	perror(what);
	exit(1);
}

#endif
