/* canary SECONDS KIB INTERVAL_MS OUT [ALL]: a bystander that maps fresh memory, touches it and gives it back.
 *
 * Writes to OUT at the end, or on TERM: `count`, `mean_us`, `hist_us LOWER COUNT` (powers of two) and the 32 longest
 * `stall_ms DURATION at BOOTTIME`. A stall that outlives TERM is waited for and counted. USR1 begins the count anew. With
 * ALL, every turn goes there, too: CSV, `at,seconds`. */
#include "common.h"

#define WORST 32
#define BUCKETS 32

struct stall { double seconds, at; };

static volatile sig_atomic_t anew;

static void on_anew(int number)
{
	(void)number;
	anew = 1;
}

static int longer(const void *a, const void *b)
{
	double x = ((const struct stall *)a)->seconds, y = ((const struct stall *)b)->seconds;
	return (x < y) - (x > y);
}

int main(int argc, char **argv)
{
	usage(argc, 4, "canary SECONDS KIB INTERVAL_MS OUT [ALL]");
	double seconds = number_argument(argv, 1, "SECONDS"), interval = number_argument(argv, 3, "INTERVAL_MS") / 1e3;
	size_t bytes = (size_t)number_argument(argv, 2, "KIB") << 10;
	struct stall worst[WORST] = { { 0, 0 } };
	long histogram[BUCKETS] = { 0 }, count = 0;
	double total = 0, start = now_seconds();
	long capacity = argc > 5 ? (long)(seconds / (interval > 0.001 ? interval : 0.001)) + 1 : 0;
	struct stall *all = capacity ? calloc((size_t)capacity, sizeof *all) : NULL;
	if (capacity && !all)
		die("ALL");
	struct sigaction action = { .sa_handler = on_anew };
	sigaction(SIGUSR1, &action, NULL);
	stop_on_signals();
	if (mlockall(MCL_CURRENT))
		perror("mlockall");
	while (!stopped && now_seconds() - start < seconds) {
		if (anew) {
			anew = 0;
			count = 0;
			total = 0;
			memset(worst, 0, sizeof worst);
			memset(histogram, 0, sizeof histogram);
		}
		double begin = now_seconds();
		char *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (memory == MAP_FAILED)
			die("mmap");
		madvise(memory, bytes, MADV_NOHUGEPAGE);
		for (size_t i = 0; i < bytes; i += PAGE_BYTES)
			memory[i] = 1;
		double took = now_seconds() - begin;
		munmap(memory, bytes);
		if (count < capacity)
			all[count] = (struct stall){ took, begin };
		total += took;
		count++;
		int bucket = 0;
		for (double us = took * 1e6; us >= 2 && bucket < BUCKETS - 1; us /= 2)
			bucket++;
		histogram[bucket]++;
		struct stall *least = worst;
		for (int i = 1; i < WORST; i++)
			if (worst[i].seconds < least->seconds)
				least = &worst[i];
		if (took > least->seconds)
			*least = (struct stall){ took, begin };
		sleep_seconds(interval);
	}
	FILE *out = fopen(argv[4], "w");
	if (!out)
		die(argv[4]);
	qsort(worst, WORST, sizeof *worst, longer);
	fprintf(out, "count %ld\nmean_us %.0f\n", count, count ? total / (double)count * 1e6 : 0.0);
	for (int i = 0; i < WORST && worst[i].seconds > 0; i++)
		fprintf(out, "stall_ms %.1f at %.3f\n", worst[i].seconds * 1e3, worst[i].at);
	for (int i = 0; i < BUCKETS; i++)
		if (histogram[i])
			fprintf(out, "hist_us %lu %ld\n", 1ul << i, histogram[i]);
	if (fclose(out))
		die(argv[4]);
	if (!capacity)
		return 0;
	out = fopen(argv[5], "w");
	if (!out)
		die(argv[5]);
	fprintf(out, "at,seconds\n");
	for (long i = 0; i < count && i < capacity; i++)
		fprintf(out, "%.4f,%.6f\n", all[i].at, all[i].seconds);
	return fclose(out) ? 1 : 0;
}
