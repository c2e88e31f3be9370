/* sampler SECONDS INTERVAL_MS OUT [FILE...] [-- FILE...]: a timeline of the zones, held in locked memory until the end or TERM.
 *
 * Writes OUT.zones.csv (a row per populated zone and sample, in the columns of a recording), OUT.vmstat.csv (PSI totals,
 * memory and swap in KiB, vmstat counters, every fifth sample) and, with FILEs, OUT.files.csv (the first number in each,
 * -1 when it cannot be read or is empty: a cgroup's memory.current or cgroup.procs, for example; those after -- are read
 * at every tenth sample only). Prints "ready BOOTTIME REALTIME" when its memory is locked. Times: CLOCK_BOOTTIME. */
#include "zones.h"

#define MOST_ZONES 8
#define MOST_FILES 32
#define EVERY_RARE_FILE 10
#define EVERY_VMSTAT 5

static const char *const COUNTERS[] = {
	"allocstall_dma32", "allocstall_normal", "allocstall_movable", "pgscan_direct", "pgscan_kswapd", "pgsteal_direct",
	"pgsteal_kswapd", "oom_kill", "pageoutrun", "pgfault", "pgmajfault", "pswpin", "pswpout",
};
#define COUNTER_COUNT (sizeof COUNTERS / sizeof *COUNTERS)
static const char *const MEMORY[] = { "MemTotal:", "MemAvailable:", "SwapTotal:", "SwapFree:" };
#define MEMORY_COUNT (sizeof MEMORY / sizeof *MEMORY)

struct sample {
	double at;
	int zone_count;
	struct zone zones[MOST_ZONES];
	long files[MOST_FILES];
};

struct counters {
	double at;
	long psi_some_us, psi_full_us, memory[MEMORY_COUNT], values[COUNTER_COUNT];
};

static char text[1 << 20];

/* Length of the file read into `text` from its beginning. */
static long reread(int file)
{
	long length = 0, got;
	while (length < (long)sizeof text - 1 && (got = pread(file, text + length, sizeof text - 1 - (size_t)length, length)) > 0)
		length += got;
	text[length] = 0;
	return length;
}

static long counter(const char *name)
{
	size_t length = strlen(name);
	for (const char *line = text; line; line = (line = strchr(line, '\n')) ? line + 1 : NULL)
		if (!strncmp(line, name, length) && line[length] == ' ')
			return atol(line + length + 1);
	return -1;
}

static void read_counters(struct counters *row, int vmstat, int meminfo, int pressure)
{
	row->at = now_seconds();
	reread(meminfo);
	for (size_t i = 0; i < MEMORY_COUNT; i++)
		row->memory[i] = counter(MEMORY[i]);
	reread(vmstat);
	for (size_t i = 0; i < COUNTER_COUNT; i++)
		row->values[i] = counter(COUNTERS[i]);
	if (pressure < 0 || reread(pressure) <= 0)
		return;
	char *some = strstr(text, "total="), *full = some ? strstr(some + 6, "total=") : NULL;
	row->psi_some_us = some ? atol(some + 6) : -1;
	row->psi_full_us = full ? atol(full + 6) : -1;
}

/* First number in a file that may go away while we sample; a cgroup's files cannot be kept open over its removal. */
static long number_in(const char *path)
{
	char line[64];
	int file = open(path, O_RDONLY);
	if (file < 0)
		return -1;
	ssize_t got = read(file, line, sizeof line - 1);
	close(file);
	if (got <= 0)
		return -1;
	line[got] = 0;
	return atol(line);
}

static FILE *output(const char *prefix, const char *suffix)
{
	char path[4096];
	snprintf(path, sizeof path, "%s%s", prefix, suffix);
	FILE *file = fopen(path, "w");
	if (!file)
		die(path);
	return file;
}

static void write_zones(const char *prefix, const struct sample *samples, long count)
{
	FILE *out = output(prefix, ".zones.csv");
	fprintf(out, "t,node,zone,free,boost,min,low,high,managed,stat_threshold,cpus,held,zspages\n");
	for (long i = 0; i < count; i++)
		for (int j = 0; j < samples[i].zone_count; j++) {
			const struct zone *zone = &samples[i].zones[j];
			if (zone->managed)
				fprintf(out, "%.4f,%d,%s,%ld,%ld,%ld,%ld,%ld,%ld,%ld,%ld,%ld,%ld\n", samples[i].at, zone->node,
					zone->name, zone->free, zone->boost, zone->min, zone->low, zone->high, zone->managed,
					zone->threshold, zone->cpus, zone->held, zone->zspages);
		}
	fclose(out);
}

static void write_counters(const char *prefix, const struct counters *rows, long count)
{
	FILE *out = output(prefix, ".vmstat.csv");
	fprintf(out, "t,psi_some_us,psi_full_us,mem_total_kib,mem_available_kib,swap_total_kib,swap_free_kib");
	for (size_t i = 0; i < COUNTER_COUNT; i++)
		fprintf(out, ",%s", COUNTERS[i]);
	fprintf(out, "\n");
	for (long i = 0; i < count; i++) {
		fprintf(out, "%.4f,%ld,%ld", rows[i].at, rows[i].psi_some_us, rows[i].psi_full_us);
		for (size_t j = 0; j < MEMORY_COUNT; j++)
			fprintf(out, ",%ld", rows[i].memory[j]);
		for (size_t j = 0; j < COUNTER_COUNT; j++)
			fprintf(out, ",%ld", rows[i].values[j]);
		fprintf(out, "\n");
	}
	fclose(out);
}

static void write_files(const char *prefix, const struct sample *samples, long count, int files, char **names)
{
	FILE *out = output(prefix, ".files.csv");
	fprintf(out, "t");
	for (int i = 0; i < files; i++)
		fprintf(out, ",%s", names[i]);
	fprintf(out, "\n");
	for (long i = 0; i < count; i++) {
		fprintf(out, "%.4f", samples[i].at);
		for (int j = 0; j < files; j++)
			fprintf(out, ",%ld", samples[i].files[j]);
		fprintf(out, "\n");
	}
	fclose(out);
}

int main(int argc, char **argv)
{
	usage(argc, 3, "sampler SECONDS INTERVAL_MS OUT [FILE...] [-- FILE...]");
	double seconds = number_argument(argv, 1, "SECONDS"), interval = number_argument(argv, 2, "INTERVAL_MS") / 1e3;
	int files = 0, frequent = -1;
	for (int i = 4; i < argc; i++) /* the names move up over the -- */
		if (frequent < 0 && !strcmp(argv[i], "--"))
			frequent = files;
		else
			argv[4 + files++] = argv[i];
	if (frequent < 0)
		frequent = files;
	if (interval <= 0 || files > MOST_FILES) {
		fprintf(stderr, "INTERVAL_MS has to be above 0, and at most %d FILEs\n", MOST_FILES);
		return 2;
	}
	long capacity = (long)(seconds / interval) + 16, count = 0, rows = 0;
	struct sample *samples = calloc((size_t)capacity, sizeof *samples);
	struct counters *counters = calloc((size_t)capacity / EVERY_VMSTAT + 2, sizeof *counters);
	int zoneinfo = open("/proc/zoneinfo", O_RDONLY), vmstat = open("/proc/vmstat", O_RDONLY);
	int meminfo = open("/proc/meminfo", O_RDONLY);
	int pressure = open("/proc/pressure/memory", O_RDONLY); /* may be missing: then 0 */
	if (!samples || !counters || zoneinfo < 0 || vmstat < 0 || meminfo < 0)
		die("sampler");
	stop_on_signals();
	if (mlockall(MCL_CURRENT | MCL_FUTURE))
		perror("mlockall");
	struct sched_param priority = { .sched_priority = 50 };
	if (sched_setscheduler(0, SCHED_FIFO, &priority))
		perror("SCHED_FIFO");
	struct timespec real;
	clock_gettime(CLOCK_REALTIME, &real);
	printf("ready %.3f %.3f\n", now_seconds(), (double)real.tv_sec + (double)real.tv_nsec * 1e-9);
	fflush(stdout);
	double start = now_seconds(), next = start;
	while (!stopped && count < capacity && now_seconds() - start < seconds) {
		struct sample *sample = &samples[count];
		sample->at = now_seconds();
		reread(zoneinfo);
		sample->zone_count = parse_zones(text, sample->zones, MOST_ZONES);
		for (int i = 0; i < files; i++)
			sample->files[i] = i < frequent || count % EVERY_RARE_FILE == 0 ? number_in(argv[4 + i]) : sample[-1].files[i];
		if (count++ % EVERY_VMSTAT == 0)
			read_counters(&counters[rows++], vmstat, meminfo, pressure);
		next += interval;
		if (next < now_seconds())
			next = now_seconds();
		sleep_seconds(next - now_seconds());
	}
	write_zones(argv[3], samples, count);
	write_counters(argv[3], counters, rows);
	if (files)
		write_files(argv[3], samples, count, files, argv + 4);
	return 0;
}
