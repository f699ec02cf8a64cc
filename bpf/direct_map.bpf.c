// SPDX-License-Identifier: GPL-2.0
/* set_direct_map_*(), every other attribute change, and the splits they cause. */

#define UAP_CPA_FLAG_ARRAY 2
#define UAP_CPA_FLAG_PAGES_ARRAY 4

/* ---- set_direct_map_*() ---- */

static __always_inline u64 splits_seen(void)
{
	u32 zero = 0;
	u64 *nr = nr_splits.lookup(&zero);

	return nr ? *nr : 0;
}

/* How a page is mapped before the call. What comes after it is then read where its entry is. */
static __always_inline void map_before(struct uap_context *c, u64 address)
{
	u64 entry = 0, table = 0;

	c->map_nr_splits = splits_seen();
	c->map_before = walk(address, &entry, &table);
	c->map_entry = table ? table + ((address >> 12) & 511) * 8 : 0;
}

/*
 * And after it. A page table goes away only when its region becomes one large mapping; for a page of that region to be in a 4K mapping
 * again, which it is where this call changed it, a split must have come since. Then, and where there was no 4K mapping, all is read.
 */
static __always_inline u32 map_after(struct uap_context *c)
{
	if (c->map_entry && c->map_nr_splits == splits_seen())
		return mapping_by(read_u64(c->map_entry));
	return mapping_of(direct_address(c->map_pfn));
}

static __always_inline int map_enter(u64 page, u32 nr, u32 flags)
{
	struct uap_context *c = make_context();
	u64 pfn = page_to_pfn(page);

	if (!c)
		return 0;
	expect_outside(c->in_map);
	c->in_map = 1;
	c->map_ns = 0;
	c->map_end_ns = 0;
	c->map_pfn = pfn;
	c->map_nr = nr;
	c->map_flags = flags;
	map_before(c, direct_address(pfn));
	if (c->in_cache && (flags & UAP_F_DEFAULT))
		c->rolled_back = 1;
	if (c->in_cache && (flags & UAP_F_INVALID)) {
		if (!c->nr_invalid) {
			c->refill_pfn = pfn;
			c->refill_order = c->attempt_order;
			/* Before anything is unmapped: nobody else can have a page of the chunk yet. */
			if (c->attempted && (!c->attempt_page || c->attempt_page == page))
				send_refill(c, pfn, c->attempt_order, 0);
		}
		c->nr_invalid += nr;
	}
	return 0;
}

/*
 * How long it took is the time of the attribute change that it consists of: nothing else is done in it, and our own programs on the way
 * into that change are not counted.
 */
static __always_inline int map_exit(int ret)
{
	struct uap_context *c = find_context();
	struct uap_record *r;
	u64 *w = words();
	u64 end_ns;
	u32 flags;

	if (!c || !c->in_map || !w)
		return 0;
	flags = c->map_flags;
	end_ns = c->map_end_ns;
	c->in_map = 0;
	add_to(w, flags & UAP_F_INVALID ? UAP_C_SET_INVALID : UAP_C_SET_DEFAULT, 1);
	if (ret)
		add_to(w, flags & UAP_F_INVALID ? UAP_C_SET_INVALID_FAILED : UAP_C_SET_DEFAULT_FAILED, 1);
	if (end_ns)
		time_call_to(w, flags & UAP_F_INVALID ? UAP_H_SET_INVALID : UAP_H_SET_DEFAULT, c->map_ns);
	else
		end_ns = bpf_ktime_get_ns();
	if (c->in_cache) {
		flags |= UAP_F_IN_CACHE;
		if (ret)
			c->nr_failed++;
	}
	if (c->in_shrink)
		flags |= UAP_F_IN_SHRINK;
	r = begin_record_at(UAP_SET_DIRECT_MAP, end_ns, c);
	if (r) {
		r->pfn = c->map_pfn;
		r->nr_pages = c->map_nr;
		r->before = c->map_before;
		r->after = map_after(c);
		r->aux = ret;
		r->duration_ns = saturate(c->map_ns);
		r->flags = flags;
		r->nr_present = r->after && !(r->after & UAP_ABSENT) ? 1 : 0;
		submit_to(w, r, UAP_SET_DIRECT_MAP);
	}
	drop_context_if_idle(c);
	return 0;
}

ENTER(SET_INVALID, map_enter(ARG(0), 1, UAP_F_INVALID))
EXIT(SET_INVALID, 1, map_exit((int)RESULT))
ENTER(SET_DEFAULT, map_enter(ARG(0), 1, UAP_F_DEFAULT))
EXIT(SET_DEFAULT, 1, map_exit((int)RESULT))
/* bool valid: only the low byte of the register counts. */
ENTER(SET_VALID, map_enter(ARG(0), (u32)ARG(1), UAP_F_VALID_NR | (ARG(2) & 0xff ? UAP_F_DEFAULT : UAP_F_INVALID)))
EXIT(SET_VALID, 3, map_exit((int)RESULT))

/* ---- change_page_attr: every other way ---- */

static __always_inline u64 cpa_word(u64 cpa, u32 offset)
{
	return read_u64(cpa + offset);
}

/* The address as the caller gave it. */
static __always_inline u64 cpa_given_address(u64 cpa, u64 index)
{
	u32 flags = (u32)cpa_word(cpa, UAP_CPA_FLAGS);
	u64 vaddr;

	if (flags & UAP_CPA_FLAG_PAGES_ARRAY)
		return direct_address(page_to_pfn(read_u64(cpa_word(cpa, UAP_CPA_PAGES) + index * 8)));
	vaddr = cpa_word(cpa, UAP_CPA_VADDR);
	if (flags & UAP_CPA_FLAG_ARRAY)
		return read_u64(vaddr + index * 8);
	return read_u64(vaddr) + (index << 12);
}

/*
 * What the kernel's fix_addr() does: bit 63 is as bit 62. set_mce_nospec() flips it, so that no CPU reaches a page with a
 * memory error by speculation while its mapping is being removed; the walk of the tables does not look at that bit.
 */
static __always_inline u64 canonical(u64 address)
{
	return (u64)((s64)(address << 1) >> 1);
}

static __always_inline u64 cpa_address(u64 cpa, u64 index)
{
	return canonical(cpa_given_address(cpa, index));
}

static __always_inline int cpa_enter(u64 cpa)
{
	struct uap_context *c = make_context();

	if (!c)
		return 0;
	/* It calls itself once, for an alias. */
	expect_outside(c->cpa_depth > 1);
	if (c->cpa_depth > 1)
		c->cpa_depth = 0;
	c->cpa[bounded(c->cpa_depth, 3)] = cpa;
	if (!c->cpa_depth)
		c->cpa_start_ns = bpf_ktime_get_ns();
	c->cpa_depth++;
	return 0;
}

static __always_inline void send_uncertain(u64 pfn, u32 nr)
{
	struct uap_record *r = begin_record(UAP_UNCERTAIN);

	if (!r)
		return;
	r->pfn = pfn;
	r->nr_pages = nr;
	submit(r, UAP_UNCERTAIN);
}

/* A change of presence: one record for each 2M region that it touches, two at the most. A larger one is read again. */
static __always_inline void send_presence(u64 cpa, int ret, u64 ns)
{
	u64 address = cpa_address(cpa, 0), pfn, end;
	u64 nr = (u32)cpa_word(cpa, UAP_CPA_NUMPAGES);
	u32 i;

	if (cpa_word(cpa, UAP_CPA_PGD))
		return;		/* another table than the kernel's (EFI) */
	if ((u32)cpa_word(cpa, UAP_CPA_FLAGS) & (UAP_CPA_FLAG_ARRAY | UAP_CPA_FLAG_PAGES_ARRAY)) {
		send_uncertain(0, 0);	/* pages from anywhere: all of it */
		return;
	}
	if (!in_direct_map(address))
		return;
	pfn = (address - UAP_PAGE_OFFSET) >> 12;
	end = pfn + nr;
	if (nr > 512) {
		send_uncertain(pfn, nr);
		return;
	}
#pragma clang loop unroll(disable)
	for (i = 0; i < 2; i++) {
		struct uap_block_state state = {};
		struct uap_record *r;
		u64 next = (pfn | 511) + 1;
		u32 here;

		if (pfn >= end)
			break;
		if (next > end)
			next = end;
		here = next - pfn;
		region_state(pfn, here, 0, &state);
		forget(&state, 0);
		if (state.mapping & UAP_MIXED) {
			send_uncertain(pfn, here);
		} else {
			r = begin_record(UAP_CPA);
			if (!r)
				return;
			r->pfn = pfn;
			r->nr_pages = here;
			r->nr_present = state.nr_present;
			r->after = state.mapping;
			r->aux = ret;
			r->duration_ns = saturate(ns);
			submit(r, UAP_CPA);
		}
		pfn = next;
	}
}

static __always_inline int cpa_exit(int ret)
{
	struct uap_context *c = find_context();
	u64 *w = words();
	u64 ns = 0, cpa;

	if (!c || !c->cpa_depth || !w)
		return 0;
	c->cpa_depth--;
	cpa = c->cpa[bounded(c->cpa_depth, 3)];
	if (!c->cpa_depth) {
		u64 end_ns = bpf_ktime_get_ns();

		ns = end_ns - c->cpa_start_ns;
		add_to(w, UAP_C_CPA, 1);
		if (ret)
			add_to(w, UAP_C_CPA_FAILED, 1);
		time_call_to(w, UAP_H_CPA, ns);
		if (c->in_map) {
			c->map_ns += ns;
			c->map_end_ns = end_ns;
		}
	}
	/* set_direct_map_*() sends its own record. */
	if (!c->in_map && ((cpa_word(cpa, UAP_CPA_MASK_SET) | cpa_word(cpa, UAP_CPA_MASK_CLR)) & UAP_PRESENT))
		send_presence(cpa, ret, ns);
	drop_context_if_idle(c);
	return 0;
}

ENTER(CPA, cpa_enter(ARG(0)))
EXIT(CPA, 2, cpa_exit((int)RESULT))

/*
 * Inside __change_page_attr_set_clr() only a split that succeeded calls flush_tlb_all(): the split functions
 * themselves are inlined away. The page is the one that cpa->curpage says.
 */
static __always_inline int split_seen(void *ctx)
{
	struct uap_context *c = find_context();
	struct uap_record *r;
	u64 cpa, given, address, pfn;
	u32 level, flags = 0, split, nr, stack, zero = 0;
	u64 *nr_seen = nr_splits.lookup(&zero);

	add(UAP_C_FLUSH_ALL, 1);
	if (!c || !c->cpa_depth)
		return 0;
	if (nr_seen)
		__sync_fetch_and_add(nr_seen, 1);
	cpa = c->cpa[bounded(c->cpa_depth - 1, 3)];
	/* Before there is more than one way to come here: the verifier follows it once for each. */
	stack = send_stack(ctx, 0);
	given = cpa_given_address(cpa, cpa_word(cpa, UAP_CPA_CURPAGE));
	address = canonical(given);
	level = mapping_of(address);
	split = (level & UAP_LEVEL_MASK) == UAP_2M ? UAP_1G : UAP_2M;
	nr = split == UAP_1G ? 1U << 18 : 512;
	if (in_direct_map(address)) {
		pfn = (address - UAP_PAGE_OFFSET) >> 12;
		if (given != address)
			flags = UAP_F_UNCOUNTED;	/* the kernel counts splits at valid addresses only */
	} else if (address >= UAP_KERNEL_IMAGE && address < UAP_KERNEL_IMAGE + (1ULL << 30)) {
		pfn = (address - UAP_KERNEL_IMAGE + UAP_PHYS_BASE) >> 12;
		flags = UAP_F_KERNEL_IMAGE;
	} else {
		pfn = 0;
		flags = UAP_F_OTHER_MAPPING;
	}
	add(flags & (UAP_F_OTHER_MAPPING | UAP_F_UNCOUNTED) ? UAP_C_SPLIT_OTHER : split == UAP_1G ? UAP_C_SPLIT_1G : UAP_C_SPLIT_2M, 1);
	r = begin_record(UAP_SPLIT);
	if (!r)
		return 0;
	r->pfn = pfn & ~(u64)(nr - 1);
	r->nr_pages = nr;
	r->before = split | (level & UAP_ABSENT);
	r->after = level;
	r->stack_id = stack;
	r->flags = flags;
	submit(r, UAP_SPLIT);
	return 0;
}

ENTER(FLUSH_ALL, split_seen(ctx))
