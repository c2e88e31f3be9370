/* sink PORTS FIRST_PORT RCVBUF_KIB SLEEP_MS DRAIN_MS SECONDS: a slow receiver of a flood.
 *
 * Sleeps while its UDP sockets fill with pages that the NIC's driver allocated atomically, drains them, sleeps again.
 * SO_RCVBUFFORCE needs CAP_NET_ADMIN. What it got goes to standard error at the end. */
#include "common.h"
#include <arpa/inet.h>
#include <sys/socket.h>

int main(int argc, char **argv)
{
	static char buffer[65536];
	usage(argc, 6, "sink PORTS FIRST_PORT RCVBUF_KIB SLEEP_MS DRAIN_MS SECONDS");
	int ports = (int)number_argument(argv, 1, "PORTS"), first = (int)number_argument(argv, 2, "FIRST_PORT");
	int receive_bytes = (int)number_argument(argv, 3, "RCVBUF_KIB") << 10;
	double sleep = number_argument(argv, 4, "SLEEP_MS") / 1e3, drain = number_argument(argv, 5, "DRAIN_MS") / 1e3;
	double seconds = number_argument(argv, 6, "SECONDS");
	int *sockets = calloc((size_t)ports, sizeof *sockets);
	if (ports < 1 || !sockets)
		die("PORTS");
	for (int i = 0; i < ports; i++) {
		struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons((uint16_t)(first + i)) };
		sockets[i] = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
		if (sockets[i] < 0)
			die("socket");
		if (setsockopt(sockets[i], SOL_SOCKET, SO_RCVBUFFORCE, &receive_bytes, sizeof receive_bytes))
			die("SO_RCVBUFFORCE");
		if (bind(sockets[i], (struct sockaddr *)&address, sizeof address))
			die("bind");
	}
	stop_on_signals();
	if (mlockall(MCL_CURRENT))
		perror("mlockall");
	long datagrams = 0, bytes = 0;
	for (double start = now_seconds(); !stopped && now_seconds() - start < seconds;) {
		sleep_seconds(sleep);
		double end = now_seconds() + drain;
		for (int i = 0, idle = 0; now_seconds() < end && idle < ports; i = (i + 1) % ports) {
			ssize_t got;
			int batch = 0;
			while (batch < 256 && (got = recv(sockets[i], buffer, sizeof buffer, 0)) >= 0) {
				batch++;
				bytes += got;
			}
			datagrams += batch;
			idle = batch ? 0 : idle + 1;
		}
	}
	fprintf(stderr, "received_datagrams %ld\nreceived_bytes %ld\n", datagrams, bytes);
	return 0;
}
