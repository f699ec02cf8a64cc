// SPDX-License-Identifier: Apache-2.0
/*
 * What uaptrace's consumer is compared with: the plain way to read a ring buffer in C, on libbpf.
 *
 * Each record is copied into one kept buffer, whose pages were touched before.  bench/consumer.py calls it as a library:
 * both consumers are then measured in one process, with the same caches and page tables.
 */
#include <bpf/libbpf.h>
#include <stdlib.h>
#include <string.h>

#define RECORD_BYTES 56

struct consumer {
	struct ring_buffer *ring;
	size_t size, used;
	char *kept;
};

static int take(void *context, void *data, size_t size)
{
	struct consumer *consumer = context;

	if (size != RECORD_BYTES)
		return -1;
	/* a batch is full: the next one uses the same buffer */
	if (consumer->used + RECORD_BYTES > consumer->size)
		consumer->used = 0;
	memcpy(consumer->kept + consumer->used, data, RECORD_BYTES);
	consumer->used += RECORD_BYTES;
	return 0;
}

/* NULL where libbpf cannot map the ring. */
struct consumer *consumer_open(int ring_fd, size_t kept_bytes)
{
	struct consumer *consumer = calloc(1, sizeof(*consumer));

	if (!consumer)
		return NULL;
	consumer->size = kept_bytes;
	consumer->kept = aligned_alloc(4096, kept_bytes);
	consumer->ring = ring_buffer__new(ring_fd, take, consumer, NULL);
	if (!consumer->kept || !consumer->ring)
		return NULL;
	memset(consumer->kept, 1, kept_bytes);
	return consumer;
}

/* Takes everything; the number of records, or a negative error. */
int consumer_take(struct consumer *consumer)
{
	consumer->used = 0;
	return ring_buffer__consume(consumer->ring);
}
