/* The lines of /proc/zoneinfo that decide: one struct per zone. */
#ifndef ZONES_H
#define ZONES_H

#include "common.h"

struct zone {
	int node;
	char name[12];
	long free, boost, min, low, high, managed;
};

/* Zones found in the text, at most `most`. */
static inline int parse_zones(const char *text, struct zone *zones, int most)
{
	int last = -1;
	for (const char *line = text; line && *line; line = (line = strchr(line, '\n')) ? line + 1 : NULL) {
		while (*line == ' ')
			line++;
		if (!strncmp(line, "Node ", 5)) {
			int node;
			char name[12];
			if (sscanf(line, "Node %d, zone %11s", &node, name) != 2)
				continue;
			if (++last >= most)
				return most;
			memset(&zones[last], 0, sizeof zones[last]);
			zones[last].node = node;
			memcpy(zones[last].name, name, sizeof name);
		} else if (last >= 0) {
			struct zone *zone = &zones[last];
			if (!strncmp(line, "pages free ", 11)) zone->free = atol(line + 11);
			else if (!strncmp(line, "boost ", 6)) zone->boost = atol(line + 6);
			else if (!strncmp(line, "min ", 4)) zone->min = atol(line + 4);
			else if (!strncmp(line, "low ", 4)) zone->low = atol(line + 4);
			else if (!strncmp(line, "high ", 5)) zone->high = atol(line + 5);
			else if (!strncmp(line, "managed ", 8)) zone->managed = atol(line + 8);
		}
	}
	return last + 1;
}

#endif
