/* tcpsink PORTS FIRST_PORT RCVBUF_KIB SLEEP_MS DRAIN_MS SECONDS: as sink, for TCP: one connection at each port.
 *
 * Needs CAP_NET_ADMIN. What it got goes to standard error at the end. */
#include "common.h"
#include <arpa/inet.h>
#include <sys/socket.h>

int main(int argc, char **argv)
{
	static char buffer[65536];
	usage(argc, 6, "tcpsink PORTS FIRST_PORT RCVBUF_KIB SLEEP_MS DRAIN_MS SECONDS");
	int ports = (int)number_argument(argv, 1, "PORTS"), first = (int)number_argument(argv, 2, "FIRST_PORT");
	int receive_bytes = (int)number_argument(argv, 3, "RCVBUF_KIB") << 10;
	double sleep = number_argument(argv, 4, "SLEEP_MS") / 1e3, drain = number_argument(argv, 5, "DRAIN_MS") / 1e3;
	double seconds = number_argument(argv, 6, "SECONDS");
	int *listeners = calloc((size_t)ports, sizeof *listeners), *connections = calloc((size_t)ports, sizeof *connections);
	if (ports < 1 || !listeners || !connections)
		die("PORTS");
	for (int i = 0; i < ports; i++) {
		struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons((uint16_t)(first + i)) };
		listeners[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
		connections[i] = -1;
		/* Before listen: the window scale is agreed on with the first packet. */
		if (listeners[i] < 0 || setsockopt(listeners[i], SOL_SOCKET, SO_RCVBUFFORCE, &receive_bytes, sizeof receive_bytes))
			die("SO_RCVBUFFORCE");
		if (bind(listeners[i], (struct sockaddr *)&address, sizeof address) || listen(listeners[i], 1))
			die("listen");
	}
	stop_on_signals();
	if (mlockall(MCL_CURRENT))
		perror("mlockall");
	long connected = 0, bytes = 0;
	for (double start = now_seconds(); !stopped && now_seconds() - start < seconds;) {
		sleep_seconds(sleep);
		double end = now_seconds() + drain;
		for (int i = 0, idle = 0; now_seconds() < end && idle < ports; i = (i + 1) % ports) {
			if (connections[i] < 0 && (connections[i] = accept4(listeners[i], NULL, NULL, SOCK_NONBLOCK)) >= 0)
				connected++;
			ssize_t got = 0;
			int batch = 0;
			while (connections[i] >= 0 && batch < 64 && (got = recv(connections[i], buffer, sizeof buffer, 0)) > 0) {
				batch++;
				bytes += got;
			}
			idle = batch ? 0 : idle + 1;
		}
	}
	fprintf(stderr, "connected %ld\nreceived_bytes %ld\n", connected, bytes);
	return 0;
}
