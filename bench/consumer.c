// SPDX-License-Identifier: Apache-2.0
/*
 * What uaptrace's consumer is compared with: the plain way to read a ring buffer in C, on libbpf.
 *
 *   consumer RING_FD BUFFER_BYTES
 *
 * The ring is inherited.  For each byte on standard input everything in the ring is taken, each record copied into
 * one kept buffer (its pages touched before), and "RECORDS NANOSECONDS" is printed.
 */
#include <bpf/libbpf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define RECORD_BYTES 56

struct kept {
	char *buffer;
	size_t size, used;
};

static int take(void *context, void *data, size_t size)
{
	struct kept *kept = context;

	if (size != RECORD_BYTES)
		return -1;
	if (kept->used + RECORD_BYTES > kept->size)	/* a batch is full: the next one uses the same buffer */
		kept->used = 0;
	memcpy(kept->buffer + kept->used, data, RECORD_BYTES);
	kept->used += RECORD_BYTES;
	return 0;
}

static long long now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

int main(int argc, char **argv)
{
	struct kept kept = {};
	struct ring_buffer *ring;

	if (argc != 3)
		return 2;
	kept.size = strtoul(argv[2], NULL, 10);
	kept.buffer = malloc(kept.size);
	if (!kept.buffer)
		return 2;
	memset(kept.buffer, 1, kept.size);
	ring = ring_buffer__new(atoi(argv[1]), take, &kept, NULL);
	if (!ring) {
		fprintf(stderr, "libbpf cannot map the ring\n");
		return 2;
	}
	printf("ready\n");
	fflush(stdout);
	while (getchar() != EOF) {
		long long begin = now_ns(), end;
		int records;

		kept.used = 0;
		records = ring_buffer__consume(ring);
		end = now_ns();
		printf("%d %lld\n", records, end - begin);
		fflush(stdout);
		if (records < 0)
			return 1;
	}
	return 0;
}
