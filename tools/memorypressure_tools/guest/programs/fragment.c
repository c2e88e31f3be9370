/* fragment MIB: holds every second page of MIB of anonymous memory: what is free beside it comes in single pages.
 *
 * Gives the other pages back and takes them again, 64 at a time, for ever, so that the pieces move. */
#include "common.h"

int main(int argc, char **argv)
{
	usage(argc, 1, "fragment MIB");
	size_t bytes = (size_t)number_argument(argv, 1, "MIB") * MIB, pages = bytes / PAGE_BYTES;
	char *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		die("mmap");
	madvise(memory, bytes, MADV_NOHUGEPAGE);
	for (size_t page = 0; page < pages; page++)
		memory[page * PAGE_BYTES] = 1;
	for (size_t page = 0; page < pages; page += 2)
		madvise(memory + page * PAGE_BYTES, PAGE_BYTES, MADV_DONTNEED);
	for (size_t first = 0;; first = (first + 128) % pages) {
		for (size_t page = first; page < first + 128 && page < pages; page += 2)
			memory[page * PAGE_BYTES] = 1;
		usleep(2000);
		for (size_t page = first; page < first + 128 && page < pages; page += 2)
			madvise(memory + page * PAGE_BYTES, PAGE_BYTES, MADV_DONTNEED);
	}
}
