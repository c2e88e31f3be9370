/* stream FILE [MIB]: reads the file (its first MIB) from beginning to end for ever: clean page cache. */
#include "common.h"

int main(int argc, char **argv)
{
	static char buffer[1 << 18];
	usage(argc, 1, "stream FILE [MIB]");
	off_t limit = argc > 2 ? (off_t)number_argument(argv, 2, "MIB") * MIB : 0, offset = 0;
	int file = open(argv[1], O_RDONLY);
	if (file < 0)
		die(argv[1]);
	for (;;) {
		ssize_t got = pread(file, buffer, sizeof buffer, offset);
		if (got < 0 && errno != EINTR)
			die(argv[1]);
		if (got == 0 && offset == 0) {
			fprintf(stderr, "%s is empty\n", argv[1]);
			return 1;
		}
		offset = got <= 0 || (limit && offset + got >= limit) ? 0 : offset + got;
	}
}
