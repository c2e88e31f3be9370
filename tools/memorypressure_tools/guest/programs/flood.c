/* flood QEMU_PORT OWN_PORT PORTS FIRST_PORT PAYLOAD_BYTES FRAMES_PER_SECOND SECONDS: sends frames into a guest.
 *
 * Runs on the host. Each UDP datagram to a QEMU "dgram" network backend on loopback is one Ethernet frame in the guest:
 * IPv4 UDP from 10.9.0.1 to 10.9.0.2 (52:54:00:09:00:02), to PORTS ports in turn. Prints what was sent. */
#include "common.h"
#include <arpa/inet.h>
#include <stdint.h>
#include <sys/socket.h>

#define BURST 32
#define HEADER_BYTES 42
#define MOST_PAYLOAD 8900

static unsigned char frames[BURST][HEADER_BYTES + MOST_PAYLOAD];

static uint16_t checksum(const unsigned char *bytes, int length)
{
	unsigned sum = 0;
	for (int i = 0; i < length; i += 2)
		sum += (unsigned)bytes[i] << 8 | bytes[i + 1];
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)~sum;
}

static void put16(unsigned char *at, unsigned value)
{
	at[0] = (unsigned char)(value >> 8);
	at[1] = (unsigned char)value;
}

static void fill(unsigned char *frame, int payload)
{
	unsigned char *ip = frame + 14, *udp = ip + 20;
	memcpy(frame, "\x52\x54\x00\x09\x00\x02\x52\x54\x00\x09\x00\x01\x08\x00", 14);
	memcpy(ip, "\x45\x00\x00\x00\x00\x01\x40\x00\x40\x11\x00\x00\x0a\x09\x00\x01\x0a\x09\x00\x02", 20);
	put16(ip + 2, (unsigned)payload + 28);
	put16(ip + 10, checksum(ip, 20));
	put16(udp, 12345);
	put16(udp + 4, (unsigned)payload + 8);
}

int main(int argc, char **argv)
{
	usage(argc, 7, "flood QEMU_PORT OWN_PORT PORTS FIRST_PORT PAYLOAD_BYTES FRAMES_PER_SECOND SECONDS");
	int qemu_port = (int)number_argument(argv, 1, "QEMU_PORT"), own_port = (int)number_argument(argv, 2, "OWN_PORT");
	int ports = (int)number_argument(argv, 3, "PORTS"), first = (int)number_argument(argv, 4, "FIRST_PORT");
	int payload = (int)number_argument(argv, 5, "PAYLOAD_BYTES");
	double rate = number_argument(argv, 6, "FRAMES_PER_SECOND"), seconds = number_argument(argv, 7, "SECONDS");
	if (ports < 1 || payload > MOST_PAYLOAD) {
		fprintf(stderr, "PORTS has to be at least 1, PAYLOAD_BYTES at most %d\n", MOST_PAYLOAD);
		return 2;
	}
	int out = socket(AF_INET, SOCK_DGRAM, 0), send_bytes = 8 << 20;
	/* QEMU sees only datagrams from the port it was told, so this one is bound; a smaller buffer only sends less. */
	if (setsockopt(out, SOL_SOCKET, SO_SNDBUFFORCE, &send_bytes, sizeof send_bytes))
		setsockopt(out, SOL_SOCKET, SO_SNDBUF, &send_bytes, sizeof send_bytes);
	struct sockaddr_in own = {
		.sin_family = AF_INET, .sin_port = htons((uint16_t)own_port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)
	};
	struct sockaddr_in qemu = own;
	qemu.sin_port = htons((uint16_t)qemu_port);
	if (bind(out, (struct sockaddr *)&own, sizeof own))
		die("bind");
	if (connect(out, (struct sockaddr *)&qemu, sizeof qemu))
		die("connect");
	struct iovec vectors[BURST];
	struct mmsghdr messages[BURST];
	memset(messages, 0, sizeof messages);
	for (int i = 0; i < BURST; i++) {
		fill(frames[i], payload);
		vectors[i] = (struct iovec){ frames[i], (size_t)(HEADER_BYTES + payload) };
		messages[i].msg_hdr.msg_iov = &vectors[i];
		messages[i].msg_hdr.msg_iovlen = 1;
	}
	stop_on_signals();
	long sent = 0, refused = 0;
	int port = 0;
	double start = now_seconds(), last = start, at, credit = 0;
	while (!stopped && (at = now_seconds()) - start < seconds) {
		credit += (at - last) * rate;
		last = at;
		if (credit > 4 * BURST)
			credit = 4 * BURST;
		if (credit < BURST) {
			usleep(200);
			continue;
		}
		for (int i = 0; i < BURST; i++, port = (port + 1) % ports)
			put16(frames[i] + 36, (unsigned)(first + port));
		int done = sendmmsg(out, messages, BURST, 0);
		sent += done > 0 ? done : 0;
		refused += done < 0;
		credit -= BURST;
	}
	printf("sent_frames %ld\nrefused_bursts %ld\nseconds %.1f\n", sent, refused, now_seconds() - start);
	return 0;
}
