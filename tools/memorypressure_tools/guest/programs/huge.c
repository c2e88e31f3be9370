/* huge MIB SECONDS: asks for huge pages (order 9) over and over: maps MIB, touches it, gives it back.
 *
 * With transparent_hugepage=always and defrag=always every fault compacts memory and reclaims for it. Prints how many
 * huge pages it got, by thp_fault_alloc and thp_fault_fallback of /proc/vmstat, before it ends. */
#include "common.h"

int main(int argc, char **argv)
{
	usage(argc, 2, "huge MIB SECONDS");
	size_t bytes = (size_t)number_argument(argv, 1, "MIB") * MIB;
	double seconds = number_argument(argv, 2, "SECONDS"), start = now_seconds();
	long rounds = 0;
	stop_on_signals();
	while (!stopped && now_seconds() - start < seconds) {
		char *memory = mmap(NULL, bytes + 2 * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (memory == MAP_FAILED)
			die("mmap");
		madvise(memory, bytes + 2 * MIB, MADV_HUGEPAGE);
		for (size_t i = 0; i < bytes; i += PAGE_BYTES)
			memory[i] = 1;
		munmap(memory, bytes + 2 * MIB);
		rounds++;
		usleep(50000);
	}
	fprintf(stderr, "rounds %ld\n", rounds);
	return 0;
}
