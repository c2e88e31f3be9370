/* hog MIB [PAUSE_US [EVENTS]]: holds that much anonymous memory and writes to random pages of it for ever.
 *
 * The first pass fills pages with half-compressible contents (for zram); after every MiB of writes it may pause. EVENTS is
 * the cgroup.events of another container: it begins 2 s after that one has come to hold processes and lost them all, as
 * a replica does that takes over the load. */
#include "common.h"

static int populated(const char *events)
{
	char text[256];
	int file = open(events, O_RDONLY | O_CLOEXEC);
	ssize_t got = file < 0 ? -1 : read(file, text, sizeof(text) - 1);
	if (got < 0)
		die(events);
	close(file);
	text[got] = 0;
	return strstr(text, "populated 1") != NULL;
}

static void await_end(const char *events)
{
	while (!populated(events))
		sleep_seconds(0.2);
	while (populated(events))
		sleep_seconds(0.2);
	sleep_seconds(2);
}

static unsigned long next_random(unsigned long *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

int main(int argc, char **argv)
{
	usage(argc, 1, "hog MIB [PAUSE_US [EVENTS]]");
	size_t bytes = (size_t)number_argument(argv, 1, "MIB") * MIB, pages = bytes / PAGE_BYTES;
	useconds_t pause_us = argc > 2 ? (useconds_t)number_argument(argv, 2, "PAUSE_US") : 0;
	unsigned char *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		die("mmap");
	if (argc > 3)
		await_end(argv[3]);
	madvise(memory, bytes, MADV_NOHUGEPAGE);
	unsigned long state = 88172645463325252ul ^ (unsigned long)getpid();
	for (size_t step = 0;; step++) {
		size_t page = step < pages ? step : next_random(&state) % pages;
		unsigned long *words = (unsigned long *)(memory + page * PAGE_BYTES);
		if (step < pages)
			for (int i = 0; i < 256; i++)
				words[i] = next_random(&state);
		else
			words[step & 511]++;
		if (pause_us && (step & 255) == 255)
			usleep(pause_us);
	}
}
