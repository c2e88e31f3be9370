/* The lines of /proc/zoneinfo that decide: one struct per zone. */
#ifndef ZONES_H
#define ZONES_H

#include "common.h"

struct zone {
	int node;
	char name[12];
	long free, boost, min, low, high, managed;
	long held; /* on per-CPU lists, in zsmalloc, and in the zone that prints them the node's LRU lists and the like */
	long zspages, threshold, cpus;
};

static const char *const HELD[] = {
	"nr_inactive_anon ", "nr_active_anon ", "nr_inactive_file ", "nr_active_file ", "nr_unevictable ", "nr_isolated_anon ",
	"nr_isolated_file ", "nr_slab_reclaimable ", "nr_page_table_pages ", "nr_zspages ", "count: ",
};
#define HELD_COUNT (sizeof HELD / sizeof *HELD)

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
			else if (!strncmp(line, "cpu: ", 5)) zone->cpus++;
			else if (!strncmp(line, "nr_kernel_stack ", 16)) zone->held += atol(line + 16) * 1024 / sysconf(_SC_PAGESIZE);
			else if (!strncmp(line, "vm stats threshold: ", 20)) {
				if (atol(line + 20) > zone->threshold)
					zone->threshold = atol(line + 20);
			} else {
				if (!strncmp(line, "nr_zspages ", 11))
					zone->zspages = atol(line + 11);
				for (size_t i = 0; i < HELD_COUNT; i++)
					if (!strncmp(line, HELD[i], strlen(HELD[i])))
						zone->held += atol(line + strlen(HELD[i]));
			}
		}
	}
	return last + 1;
}

#endif
