/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The one definition of what travels from the kernel to the daemon.
 *
 * uaptrace/abi/events.py is made of it (packaging/generate_abi.py); tests/unit/test_layout.py makes it
 * anew, and compares it with what a compiler makes of this file.
 *
 * A record is 56 bytes.  The ring buffer puts an 8 byte header before it, so a
 * record takes exactly one 64 byte cache line of the ring and never straddles
 * two.
 *
 *   offset  0        8        16       20   24    28        32         40        44   48
 *          +--------+--------+--------+----+-----+---------+----------+---------+----+--
 *          |time_ns |  pfn   |nr_pages|tid |tgid |duration | cgroup_id|stack_id |aux | kind order
 *          +--------+--------+--------+----+-----+---------+----------+---------+----+ before after
 *   TASK   |        |  comm[16]            |tgid |         | start_ns |              | nr_present
 *   STACK  |        |  frames[4] (8 bytes each)            (32 bytes)  |stack_id|    | flags
 */
#ifndef UAPTRACE_EVENTS_H
#define UAPTRACE_EVENTS_H

struct uap_record {
	unsigned long long time_ns;	/* bpf_ktime_get_ns(): CLOCK_MONOTONIC */
	unsigned long long pfn;		/* first page */
	unsigned int nr_pages;
	unsigned int tid;
	unsigned int tgid;
	unsigned int duration_ns;	/* of the call, 0xffffffff: longer than that */
	unsigned long long cgroup_id;
	unsigned int stack_id;		/* hash of the kernel stack, 0: none taken */
	int aux;			/* what it means depends on the kind */
	unsigned char kind;		/* enum uap_kind */
	unsigned char order;
	unsigned char before;		/* enum uap_mapping: SPLIT: what was split; SET_DIRECT_MAP of older recordings: on entry */
	unsigned char after;		/* enum uap_mapping: read from the page tables on exit */
	unsigned short nr_present;	/* pages of the block that are in the direct map now */
	unsigned short flags;		/* enum uap_flag */
};

enum uap_kind {
	UAP_NONE = 0,
	/*
	 * The name of the process tgid, sent before its first record and when it changes: comm[16] of its group leader at
	 * offset 8, task_struct.start_time of the leader (CLOCK_MONOTONIC, 0: not known) in cgroup_id's place.
	 */
	UAP_TASK = 1,
	UAP_STACK = 2,		/* four frames of stack_id at offset 8; order: index of the first / 4; nr_present: frames in all */
	UAP_SPLIT = 3,		/* a large mapping was split; pfn, nr_pages: the large page; before, after: levels */
	UAP_SET_DIRECT_MAP = 4,	/* set_direct_map_*(); aux: return value */
	UAP_CPA = 5,		/* attribute change that touched presence, one record for each 2M region; aux: return value */
	UAP_REQUEST = 6,	/* __alloc_pages() with __GFP_UNMAPPED; aux: gfp. With UAP_F_BY_CALLER: what a caller was given */
	UAP_REFILL = 7,		/* chunk taken by the cache, about to be unmapped; aux: attempts that failed before */
	UAP_REFILLED = 8,	/* TLB flush of a refilled chunk; nr_present: pages still mapped; aux: set_direct_map errors so far */
	UAP_ALLOC = 9,		/* unmapped_pages_alloc() returned; aux: gfp; nr_present: pages of the block still mapped */
	UAP_FREE = 10,		/* unmapped_pages_free() entered */
	UAP_RELEASE = 11,	/* __free_unmapped_page() entered; nr_present: pages restored; aux: bytes that are not zero, -1: not read */
	UAP_SHRINK = 12,	/* shrinker scan returned; nr_pages: released; aux: asked for */
	UAP_REFILL_UNDONE = 13,	/* unmapped_pages_alloc() failed after UAP_REFILL: the chunk went back */
	UAP_UNCERTAIN = 14,	/* the range may have changed in a way that was not read: read it again */
	UAP_NR_KINDS = 15,
};

/* How an address of the direct map is mapped. */
enum uap_mapping {
	UAP_UNKNOWN = 0,	/* no mapping at all, or not read */
	UAP_4K = 1,
	UAP_2M = 2,
	UAP_1G = 3,
	UAP_LEVEL_MASK = 3,
	UAP_MIXED = 64,		/* some of the pages are absent, some present */
	UAP_ABSENT = 128,	/* entry is not present */
};

enum uap_flag {
	UAP_F_INVALID = 1,	/* SET_DIRECT_MAP: set_direct_map_invalid_noflush() or valid=false */
	UAP_F_DEFAULT = 2,	/* SET_DIRECT_MAP: set_direct_map_default_noflush() or valid=true */
	UAP_F_IN_CACHE = 4,	/* inside unmapped_pages_alloc() */
	UAP_F_IN_SHRINK = 8,	/* inside unmapped_alloc_scan_objects() */
	UAP_F_REFILLED = 16,	/* ALLOC: had to refill; not set: a hit */
	UAP_F_FAILED = 32,	/* ALLOC: returned NULL */
	UAP_F_FLUSH_COVERS = 64,	/* REFILLED: the flush covers the whole chunk */
	UAP_F_FLUSHED = 128,	/* ALLOC: a flush was seen since the refill */
	UAP_F_KERNEL_IMAGE = 256,	/* SPLIT: in the kernel image's mapping, not the direct map (vmstat counts it too) */
	UAP_F_OTHER_MAPPING = 512,	/* SPLIT: elsewhere (vmalloc, modules); vmstat does not count it */
	UAP_F_KERNEL_THREAD = 1024,
	UAP_F_VALID_NR = 2048,	/* SET_DIRECT_MAP: by set_direct_map_valid_noflush() */
	UAP_F_ORDER_GUESSED = 4096,	/* REFILL: order from the unmapped range: the request for it was not seen */
	UAP_F_REFILL_PARTIAL = 8192,	/* REFILLED, ALLOC: fewer set_direct_map calls than the chunk has pages */
	UAP_F_UNCOUNTED = 16384,	/* SPLIT: in the direct map, and vmstat does not count it (memory failure) */
	UAP_F_BY_CALLER = 32768,	/* REQUEST: a page that was asked for with the flag, where its caller has it */
};

/*
 * Counters: one block of 512 eight byte words for each CPU in a mappable array,
 * so that the daemon reads them without a system call.  They count every call,
 * whether or not its record found room in the ring.
 */
enum uap_counter {
	UAP_C_ALLOC_PAGES = 0,		/* all of them: only where the plain count is asked for */
	UAP_C_REQUEST = 1,		/* with __GFP_UNMAPPED */
	UAP_C_CACHE_ALLOC = 2,
	UAP_C_CACHE_ALLOC_FAILED = 3,
	UAP_C_CACHE_HIT = 4,
	UAP_C_CACHE_REFILL = 5,
	UAP_C_CACHE_REFILL_FALLBACK = 6,	/* refills of less than the first order that was tried */
	UAP_C_CACHE_REFILL_UNDONE = 7,
	UAP_C_CACHE_FREE = 8,
	UAP_C_CACHE_RELEASE = 9,
	UAP_C_SET_INVALID = 10,
	UAP_C_SET_INVALID_FAILED = 11,
	UAP_C_SET_DEFAULT = 12,
	UAP_C_SET_DEFAULT_FAILED = 13,
	UAP_C_CPA = 14,
	UAP_C_CPA_FAILED = 15,
	UAP_C_SPLIT_2M = 16,		/* those that vmstat counts */
	UAP_C_SPLIT_1G = 17,
	UAP_C_SPLIT_OTHER = 18,		/* those that vmstat does not count: other mappings, memory failure */
	UAP_C_SHRINK_SCAN = 19,
	UAP_C_SHRINK_COUNT = 20,
	UAP_C_SHRINK_ASKED_PAGES = 21,
	UAP_C_SHRINK_RELEASED_PAGES = 22,
	UAP_C_PAGES_REFILLED = 23,
	UAP_C_PAGES_ALLOCATED = 24,
	UAP_C_PAGES_FREED = 25,
	UAP_C_PAGES_RELEASED = 26,
	UAP_C_CONTEXT_LOST = 27,	/* calls that could not be followed: no room to remember the task, or their return was not seen */
	UAP_C_CACHE_ENTERED = 28,	/* unmapped_pages_alloc() entered; CACHE_ALLOC counts when it returns */
	UAP_C_REFILL_ORDER = 32,	/* 11 words, by order */
	UAP_C_RELEASE_ORDER = 44,
	UAP_C_ALLOC_ORDER = 56,
	UAP_C_FREE_ORDER = 68,
	UAP_C_EMITTED = 80,		/* 16 words, by kind: records put into the ring */
	UAP_C_LOST = 96,		/* 16 words, by kind: no room in the ring */
	UAP_C_HISTOGRAM_SUM = 112,	/* 8 words, ns */
	UAP_C_HISTOGRAM = 128,		/* 8 times 32 words: calls that took [2^i, 2^(i+1)) ns */
	UAP_C_FLUSH_ALL = 384,		/* flush_tlb_all() entered */
	UAP_C_FLUSH_RANGE = 385,	/* flush_tlb_kernel_range() entered: where it is hooked */
	UAP_C_WORDS = 512,
};

enum uap_histogram {
	UAP_H_CACHE_HIT = 0,		/* unmapped_pages_alloc() without a refill */
	UAP_H_CACHE_REFILL = 1,		/* unmapped_pages_alloc() with one */
	UAP_H_CACHE_FREE = 2,
	UAP_H_SHRINK = 3,
	UAP_H_SET_INVALID = 4,
	UAP_H_SET_DEFAULT = 5,
	UAP_H_CPA = 6,
	UAP_NR_HISTOGRAMS = 7,
	UAP_HISTOGRAM_BUCKETS = 32,
};

#define UAP_NR_ORDERS 11
#define UAP_STACK_FRAMES 32
#define UAP_STACK_FRAMES_PER_RECORD 4

#endif
