/* tcpflood QEMU_PORT OWN_PORT PORTS FIRST_PORT PAYLOAD_BYTES SEGMENTS_PER_SECOND SECONDS: as flood, for TCP.
 *
 * One connection to each port, spoken frame by frame: SYN, ACK, then small segments for as long as the receiver's window
 * is open, without congestion control; what was not acknowledged for RETRY seconds is sent again from there on. The guest
 * needs a neighbour entry for 10.9.0.1 (52:54:00:09:00:01): nobody answers ARP here. Payload is zeros, so a segment's
 * checksum depends on its header only. Prints what was sent and acknowledged. */
#include "common.h"
#include <arpa/inet.h>
#include <stdint.h>
#include <sys/socket.h>

#define MOST_PORTS 64
#define MOST_PAYLOAD 8900
#define HEADER_BYTES 54
#define OWN_FIRST_PORT 40000
#define RETRY 0.2
#define SYN 0x02
#define ACK 0x10
#define PSH 0x08

struct connection {
	uint32_t acknowledged, next, peer_next, window;
	int scale, established;
	double heard;
};

static struct connection connections[MOST_PORTS];
static unsigned char frame[HEADER_BYTES + 8 + MOST_PAYLOAD];
static int out, first_port;

static void put16(unsigned char *at, unsigned value)
{
	at[0] = (unsigned char)(value >> 8);
	at[1] = (unsigned char)value;
}

static void put32(unsigned char *at, uint32_t value)
{
	put16(at, value >> 16);
	put16(at + 2, value & 0xffff);
}

static uint32_t get32(const unsigned char *at)
{
	return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

static uint32_t sum(const unsigned char *bytes, int length)
{
	uint32_t total = 0;
	for (int i = 0; i < length; i += 2)
		total += (uint32_t)bytes[i] << 8 | bytes[i + 1];
	return total;
}

static unsigned folded(uint32_t total)
{
	while (total >> 16)
		total = (total & 0xffff) + (total >> 16);
	return ~total & 0xffff;
}

/* Sends one segment of a connection; `payload` bytes of zeros, options with a SYN. */
static int send_segment(int index, uint32_t sequence, int flags, int payload)
{
	struct connection *c = &connections[index];
	unsigned char *ip = frame + 14, *tcp = ip + 20;
	int options = flags & SYN ? 8 : 0, tcp_bytes = 20 + options + payload;
	memcpy(frame, "\x52\x54\x00\x09\x00\x02\x52\x54\x00\x09\x00\x01\x08\x00", 14);
	memcpy(ip, "\x45\x00\x00\x00\x00\x01\x40\x00\x40\x06\x00\x00\x0a\x09\x00\x01\x0a\x09\x00\x02", 20);
	put16(ip + 2, (unsigned)(20 + tcp_bytes));
	put16(ip + 10, folded(sum(ip, 20)));
	put16(tcp, (unsigned)(OWN_FIRST_PORT + index));
	put16(tcp + 2, (unsigned)(first_port + index));
	put32(tcp + 4, sequence);
	put32(tcp + 8, c->peer_next);
	tcp[12] = (unsigned char)((20 + options) / 4 << 4);
	tcp[13] = (unsigned char)flags;
	put16(tcp + 14, 0xffff);
	put32(tcp + 16, 0);
	if (options)
		memcpy(tcp + 20, "\x02\x04\x22\xc4\x01\x03\x03\x07", 8); /* MSS 8900, no operation, window scale 7 */
	put16(tcp + 16, folded(sum(tcp, 20 + options) + sum(ip + 12, 8) + 6 + (uint32_t)tcp_bytes));
	int done = send(out, frame, (size_t)(14 + 20 + tcp_bytes), 0) > 0;
	if (options)
		memset(tcp + 20, 0, 8); /* where other segments have their zeros */
	return done;
}

static void hear(int ports)
{
	static unsigned char heard[65536];
	ssize_t length;
	while ((length = recv(out, heard, sizeof heard, MSG_DONTWAIT)) > 0) {
		const unsigned char *ip = heard + 14;
		if (length < HEADER_BYTES || heard[12] != 8 || heard[13] || ip[9] != 6)
			continue;
		const unsigned char *tcp = ip + (ip[0] & 15) * 4;
		int index = (tcp[2] << 8 | tcp[3]) - OWN_FIRST_PORT, flags = tcp[13];
		if (index < 0 || index >= ports || !(flags & ACK))
			continue;
		struct connection *c = &connections[index];
		uint32_t window = (uint32_t)(tcp[14] << 8 | tcp[15]);
		if (flags & SYN) {
			for (const unsigned char *option = tcp + 20, *end = tcp + (tcp[12] >> 4) * 4; option < end && *option;)
				if (*option == 1)
					option++;
				else {
					if (*option == 3)
						c->scale = option[2];
					option += option[1] ? option[1] : 1;
				}
			c->peer_next = get32(tcp + 4) + 1;
			c->acknowledged = c->next = get32(tcp + 8);
			c->window = window;
			c->established = 1;
			c->heard = now_seconds();
			send_segment(index, c->next, ACK, 0);
			continue;
		}
		uint32_t acknowledged = get32(tcp + 8);
		if ((int32_t)(acknowledged - c->acknowledged) > 0) {
			c->acknowledged = acknowledged;
			c->heard = now_seconds();
			if ((int32_t)(c->next - acknowledged) < 0)
				c->next = acknowledged;
		}
		c->window = window << c->scale;
	}
}

int main(int argc, char **argv)
{
	usage(argc, 7, "tcpflood QEMU_PORT OWN_PORT PORTS FIRST_PORT PAYLOAD_BYTES SEGMENTS_PER_SECOND SECONDS");
	int qemu_port = (int)number_argument(argv, 1, "QEMU_PORT"), own_port = (int)number_argument(argv, 2, "OWN_PORT");
	int ports = (int)number_argument(argv, 3, "PORTS"), payload = (int)number_argument(argv, 5, "PAYLOAD_BYTES");
	first_port = (int)number_argument(argv, 4, "FIRST_PORT");
	double rate = number_argument(argv, 6, "SEGMENTS_PER_SECOND"), seconds = number_argument(argv, 7, "SECONDS");
	if (ports < 1 || ports > MOST_PORTS || payload < 2 || payload > MOST_PAYLOAD || payload % 2) {
		fprintf(stderr, "PORTS has to be 1 to %d, PAYLOAD_BYTES even and 2 to %d\n", MOST_PORTS, MOST_PAYLOAD);
		return 2;
	}
	int buffer_bytes = 8 << 20;
	out = socket(AF_INET, SOCK_DGRAM, 0);
	setsockopt(out, SOL_SOCKET, SO_RCVBUF, &buffer_bytes, sizeof buffer_bytes);
	setsockopt(out, SOL_SOCKET, SO_SNDBUF, &buffer_bytes, sizeof buffer_bytes);
	struct sockaddr_in own = {
		.sin_family = AF_INET, .sin_port = htons((uint16_t)own_port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)
	};
	struct sockaddr_in qemu = own;
	qemu.sin_port = htons((uint16_t)qemu_port);
	if (bind(out, (struct sockaddr *)&own, sizeof own))
		die("bind");
	if (connect(out, (struct sockaddr *)&qemu, sizeof qemu))
		die("connect");
	stop_on_signals();
	long sent = 0, again = 0;
	double start = now_seconds(), last = start, at, credit = 0;
	for (int index = 0; !stopped && (at = now_seconds()) - start < seconds; index = (index + 1) % ports) {
		struct connection *c = &connections[index];
		hear(ports);
		credit += (at - last) * rate;
		last = at;
		if (credit > 256)
			credit = 256;
		if (credit < 1) {
			usleep(200);
			continue;
		}
		if (!c->established) {
			if (at - c->heard > RETRY) {
				c->heard = at;
				send_segment(index, 1000, SYN, 0);
			}
			continue;
		}
		if (at - c->heard > RETRY) { /* nothing came through, or the window was closed: from there on, once more */
			c->heard = at;
			again += c->next != c->acknowledged;
			c->next = c->acknowledged;
			send_segment(index, c->next, ACK | PSH, payload);
			credit--;
		}
		for (int burst = 0; burst < 16 && credit >= 1; burst++) {
			if ((uint32_t)(c->next + (uint32_t)payload - c->acknowledged) > c->window)
				break;
			sent += send_segment(index, c->next, ACK, payload);
			c->next += (uint32_t)payload;
			credit--;
		}
	}
	long established = 0, acknowledged = 0;
	for (int i = 0; i < ports; i++) {
		established += connections[i].established;
		acknowledged += connections[i].established ? (long)(connections[i].acknowledged - 1001) : 0;
	}
	printf("sent_frames %ld\nconnections %ld\nacknowledged_bytes %ld\nretries %ld\n", sent, established, acknowledged, again);
	return 0;
}
