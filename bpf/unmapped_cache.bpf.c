// SPDX-License-Identifier: GPL-2.0
/* The unmapped cache: requests, refills, allocations, frees, releases. */

#define UAP_GFP_IO_FS 0xc0U
#define UAP_FIRST_REFILL_ORDER 9

static __always_inline void send_refill(struct uap_context *c, u64 pfn, u32 order, u32 flags)
{
	struct uap_record *r;

	c->refill_sent = 1;
	c->refill_order = order;
	c->refill_pfn = pfn;
	add(UAP_C_CACHE_REFILL, 1);
	add(UAP_C_PAGES_REFILLED, 1ULL << (order & 15));
	if (order < UAP_NR_ORDERS)
		add(UAP_C_REFILL_ORDER + order, 1);
	if (order < UAP_FIRST_REFILL_ORDER)
		add(UAP_C_CACHE_REFILL_FALLBACK, 1);
	r = begin_record(UAP_REFILL);
	if (!r)
		return;
	r->pfn = pfn;
	r->order = order;
	r->nr_pages = 1U << (order & 15);
	r->aux = c->failed_attempts;
	r->flags = flags;
	submit(r, UAP_REFILL);
}

static __always_inline u32 log2_of(u32 nr)
{
	u32 order = 0;

	if (nr >= 1U << 8) { order += 8; nr >>= 8; }
	if (nr >= 1U << 4) { order += 4; nr >>= 4; }
	if (nr >= 1U << 2) { order += 2; nr >>= 2; }
	if (nr >= 1U << 1) order += 1;
	return order;
}

/*
 * A request of the page allocator that has no flag: is it the refill's own? That one has no flag either, so the flag
 * alone cannot find it. One load tells whether any task is inside the cache at all; only then is the task looked up.
 */
static __always_inline struct uap_context *refilling(u32 gfp)
{
	struct uap_context *c;
	u32 zero = 0;
	u64 *active = nr_in_cache.lookup(&zero);

	if (!active || !*active)
		return 0;
	c = find_context();
	/* Same context and not an interrupt's request: those may neither do I/O nor enter a file system. */
	if (!c || !c->in_cache || c->nr_invalid || ((gfp ^ c->gfp) & UAP_GFP_IO_FS))
		return 0;
	return c;
}

/* What is asked for: every page allocation of the host passes here. */
static __always_inline int alloc_pages_enter(u32 gfp, u32 order)
{
	struct uap_context *c;
	struct uap_record *r;

	if (!(gfp & UAP_GFP_UNMAPPED)) {
		c = refilling(gfp);
		if (!c)
			return 0;
		if (c->attempted)
			c->failed_attempts++;
		c->attempted = 1;
		c->attempt_order = order;
		return 0;
	}
	add(UAP_C_REQUEST, 1);
	r = begin_record(UAP_REQUEST);
	if (!r)
		return 0;
	r->order = order;
	r->nr_pages = 1U << (order & 15);
	r->aux = gfp;
	submit(r, UAP_REQUEST);
	return 0;
}

ENTER(ALLOC_PAGES, alloc_pages_enter((u32)SCALAR(0), (u32)SCALAR(1)))

/*
 * The same at the tracepoint kmem:mm_page_alloc, which costs half as much: what was given. It does not see a request
 * whose flag was taken away, and sends no record: CACHE_ALLOC has what there is to say. A refill by single pages is not
 * looked for, so that the page faults of the host, which ask for single pages, are done with after two tests; its order
 * needs no guess.
 */
static __always_inline int page_alloc_done(u64 page, u32 order, u32 gfp)
{
	struct uap_context *c;

	if (gfp & UAP_GFP_UNMAPPED) {
		add(UAP_C_REQUEST, 1);
		return 0;
	}
	if (!order)
		return 0;
	c = refilling(gfp);
	if (!c)
		return 0;
	if (page) {
		c->attempted = 1;
		c->attempt_order = order;
		c->attempt_page = page;
	} else {
		c->failed_attempts++;
	}
	return 0;
}

ENTER(PAGE_ALLOC, page_alloc_done(SCALAR(0), (u32)SCALAR(1), (u32)SCALAR(2)))

/* On a kernel without the series, and only where it is asked for: the plain count. */
static __always_inline int alloc_pages_count(void)
{
	add(UAP_C_ALLOC_PAGES, 1);
	return 0;
}

ENTER(ALLOC_PAGES_COUNT, alloc_pages_count())

static __always_inline int cache_alloc_enter(u32 gfp, u32 order)
{
	struct uap_context *c = make_context();
	u32 zero = 0;
	u64 *active = nr_in_cache.lookup(&zero);

	add(UAP_C_CACHE_ENTERED, 1);
	if (!c)
		return 0;
	if (active && !c->in_cache)
		__sync_fetch_and_add(active, 1);
	expect_outside(c->in_cache);
	c->in_cache = 1;
	c->cache_start_ns = bpf_ktime_get_ns();
	c->gfp = gfp;
	c->order = order;
	c->attempted = 0;
	c->failed_attempts = 0;
	c->attempt_order = order;
	c->attempt_page = 0;
	c->nr_invalid = 0;
	c->nr_failed = 0;
	c->refill_sent = 0;
	c->refill_pfn = 0;
	c->flushed = 0;
	c->flush_covers = 0;
	c->rolled_back = 0;
	return 0;
}

static __always_inline int cache_alloc_exit(void *ctx, u64 page)
{
	struct uap_context *c = find_context();
	struct uap_block_state state = {};
	struct uap_record *r;
	u32 zero = 0, flags = 0, stack = 0, order;
	u64 *active = nr_in_cache.lookup(&zero), *w = words();
	u64 end_ns, ns, pfn = 0;

	if (!c || !c->in_cache || !w)
		return 0;
	if (active)
		__sync_fetch_and_add(active, -1);
	end_ns = bpf_ktime_get_ns();
	ns = end_ns - c->cache_start_ns;
	order = c->order & 15;
	c->in_cache = 0;
	add_to(w, UAP_C_CACHE_ALLOC, 1);
	if (c->nr_invalid && !c->refill_sent)
		send_refill(c, c->refill_pfn, log2_of(c->nr_invalid), UAP_F_ORDER_GUESSED);
	if (!page && c->refill_sent) {
		add_to(w, UAP_C_CACHE_REFILL_UNDONE, 1);
		r = begin_record(UAP_REFILL_UNDONE);
		if (r) {
			r->pfn = c->refill_pfn;
			r->order = c->refill_order;
			r->nr_pages = 1U << (c->refill_order & 15);
			submit(r, UAP_REFILL_UNDONE);
		}
	}
	if (page) {
		pfn = page_to_pfn(page);
		block_state(pfn, order, 1, &state);
		if (state.nr_present)
			stack = send_stack(ctx, 1);
		add_to(w, UAP_C_PAGES_ALLOCATED, 1ULL << order);
		if (order < UAP_NR_ORDERS)
			add_to(w, UAP_C_ALLOC_ORDER + order, 1);
		if (c->refill_sent) {
			flags |= UAP_F_REFILLED;
			time_call_to(w, UAP_H_CACHE_REFILL, ns);
		} else {
			add_to(w, UAP_C_CACHE_HIT, 1);
			time_call_to(w, UAP_H_CACHE_HIT, ns);
		}
		if (c->flushed)
			flags |= UAP_F_FLUSHED;
		if (c->flush_covers)
			flags |= UAP_F_FLUSH_COVERS;
		if (c->refill_sent && c->nr_invalid < 1U << (c->refill_order & 15))
			flags |= UAP_F_REFILL_PARTIAL;
	} else {
		flags |= UAP_F_FAILED;
		add_to(w, UAP_C_CACHE_ALLOC_FAILED, 1);
	}
	r = begin_record_at(UAP_ALLOC, end_ns, c);
	if (r) {
		r->pfn = pfn;
		r->order = order;
		r->nr_pages = 1U << order;
		r->duration_ns = saturate(ns);
		r->aux = c->gfp;
		r->after = state.mapping;
		r->nr_present = state.nr_present;
		r->flags = flags;
		r->stack_id = stack;
		submit_to(w, r, UAP_ALLOC);
	}
	drop_context_if_idle(c);
	return 0;
}

ENTER(CACHE_ALLOC, cache_alloc_enter((u32)ARG(0), (u32)ARG(1)))
EXIT(CACHE_ALLOC, 2, cache_alloc_exit(ctx, RET))

/* The flush that ends a refill: the whole chunk must be absent now, and still nobody else can have a page of it. */
static __always_inline int flush_range_enter(void *ctx, u64 start, u64 end)
{
	struct uap_context *c = find_context();
	struct uap_block_state state = {};
	struct uap_record *r;
	u32 order, flags = 0, stack = 0;
	u64 first;

	add(UAP_C_FLUSH_RANGE, 1);
	if (!c || !c->in_cache || !c->nr_invalid || c->flushed)
		return 0;
	if (!c->refill_sent)
		send_refill(c, c->refill_pfn, log2_of(c->nr_invalid), UAP_F_ORDER_GUESSED);
	order = c->refill_order & 15;
	first = direct_address(c->refill_pfn);
	c->flushed = 1;
	if (start <= first && end >= first + (4096ULL << order)) {
		c->flush_covers = 1;
		flags |= UAP_F_FLUSH_COVERS;
	}
	if (c->nr_invalid < 1U << order)
		flags |= UAP_F_REFILL_PARTIAL;
	/* After an error the refill may be on its way back: what becomes of it shows when the call returns. */
	if (c->rolled_back || c->nr_failed)
		return 0;
	block_state(c->refill_pfn, order, 2, &state);
	if (state.nr_present)
		stack = send_stack(ctx, 1);
	r = begin_record(UAP_REFILLED);
	if (!r)
		return 0;
	r->pfn = c->refill_pfn;
	r->order = order;
	r->nr_pages = 1U << order;
	r->nr_present = state.nr_present;
	r->after = state.mapping;
	r->aux = c->nr_failed;
	r->flags = flags;
	r->stack_id = stack;
	submit(r, UAP_REFILLED);
	return 0;
}

ENTER(FLUSH_RANGE, flush_range_enter(ctx, ARG(0), ARG(1)))

static __always_inline int cache_free_enter(u64 page, u32 order)
{
	struct uap_context *c;
	struct uap_block_state state = {};
	struct uap_record *r;
	u64 pfn = page_to_pfn(page), *w = words();

	if (!w)
		return 0;
	order &= 15;
	add_to(w, UAP_C_CACHE_FREE, 1);
	add_to(w, UAP_C_PAGES_FREED, 1ULL << order);
	if (order < UAP_NR_ORDERS)
		add_to(w, UAP_C_FREE_ORDER + order, 1);
	block_state(pfn, order, 3, &state);
	r = begin_record(UAP_FREE);
	if (r) {
		r->pfn = pfn;
		r->order = order;
		r->nr_pages = 1U << order;
		r->nr_present = state.nr_present;
		r->after = state.mapping;
		submit_to(w, r, UAP_FREE);
	}
	/* last, or the verifier follows all of the above twice: with a context and without one */
	c = make_context();
	if (c)
		c->free_start_ns = bpf_ktime_get_ns();
	return 0;
}

static __always_inline int cache_free_exit(void)
{
	struct uap_context *c = find_context();

	if (!c || !c->free_start_ns)
		return 0;
	time_call(UAP_H_CACHE_FREE, bpf_ktime_get_ns() - c->free_start_ns);
	c->free_start_ns = 0;
	drop_context_if_idle(c);
	return 0;
}

ENTER(CACHE_FREE, cache_free_enter(ARG(0), (u32)ARG(1)))
EXIT(CACHE_FREE, 2, cache_free_exit())

/*
 * Bytes of up to four pages of the block that are not zero, in words of eight; -1 where they cannot be read. Always four turns, which
 * read a page again where the block has fewer: a compiler makes of "the smaller of nr and 4" as many paths as there are results.
 */
static __always_inline int bytes_not_zero(u64 pfn, u32 order, u32 slot)
{
	struct uap_scratch *s = scratch.lookup(&slot);
	u32 nr = 1U << (order & 15), i, j, found = 0;

	if (!s)
		return -1;
#pragma clang loop unroll(disable)
	for (i = 0; i < 4; i++) {
		u32 here = 0, counts = (i - nr) >> 31;

		if (bpf_probe_read_kernel(s->e, sizeof(s->e), (void *)direct_address(pfn + ((i * nr / 4 | i) & (nr - 1)))))
			return -1;
#pragma clang loop unroll_count(16)
		for (j = 0; j < 512; j++) {
			u64 negative = -s->e[j];

			/* Else the compiler sees that this asks whether the word is zero, and makes a branch of it. */
			asm volatile("" : "+r"(negative));
			here += (u32)((s->e[j] | negative) >> 63);	/* no branch: see region_state() */
		}
		asm volatile("" : "+r"(counts));
		found += here * counts * 8;
	}
	return found;
}

static __always_inline int release_enter(void *ctx, u64 page, u32 order)
{
	struct uap_block_state state = {};
	struct uap_context *c;
	struct uap_record *r;
	u64 pfn = page_to_pfn(page);
	u32 nr = 1U << (order & 15), stack = 0;
	int not_zero;

	order &= 15;
	add(UAP_C_CACHE_RELEASE, 1);
	add(UAP_C_PAGES_RELEASED, nr);
	if (order < UAP_NR_ORDERS)
		add(UAP_C_RELEASE_ORDER + order, 1);
	/* Before there is more than one way to come here: the verifier follows it once for each. */
	not_zero = bytes_not_zero(pfn, order, 5);
	block_state(pfn, order, 4, &state);
	if (state.nr_present < nr) {
		not_zero = -1;
		stack = send_stack(ctx, 1);
	}
	c = find_context();	/* last, as in cache_free_enter() */
	r = begin_record(UAP_RELEASE);
	if (!r)
		return 0;
	r->pfn = pfn;
	r->order = order;
	r->nr_pages = nr;
	r->nr_present = state.nr_present;
	r->after = state.mapping;
	r->aux = not_zero;
	r->stack_id = stack;
	r->flags = c && c->in_shrink ? UAP_F_IN_SHRINK : 0;
	submit(r, UAP_RELEASE);
	return 0;
}

ENTER(CACHE_RELEASE, release_enter(ctx, ARG(0), (u32)ARG(1)))
