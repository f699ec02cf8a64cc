// SPDX-License-Identifier: GPL-2.0
/* set_direct_map_*(), every other attribute change, and the splits they cause. */

#define UAP_CPA_FLAG_ARRAY 2
#define UAP_CPA_FLAG_PAGES_ARRAY 4

/* ---- set_direct_map_*() ---- */

/* c: of the current task, whose id it is. */
static __always_inline void send_set(struct uap_context *c, u64 id, u64 *w, u64 pfn, u32 nr, u32 flags, int ret, u64 ns, u64 end_ns)
{
	u32 after = mapping_of(direct_address(pfn));
	struct uap_record *r;

	add_to(w, flags & UAP_F_INVALID ? UAP_C_SET_INVALID : UAP_C_SET_DEFAULT, 1);
	if (ret)
		add_to(w, flags & UAP_F_INVALID ? UAP_C_SET_INVALID_FAILED : UAP_C_SET_DEFAULT_FAILED, 1);
	if (c->in_cache) {
		flags |= UAP_F_IN_CACHE;
		if (ret)
			c->nr_failed++;
	}
	if (c->in_shrink)
		flags |= UAP_F_IN_SHRINK;
	r = begin_record_of(UAP_SET_DIRECT_MAP, end_ns, c, id);
	if (!r)
		return;
	r->pfn = pfn;
	r->nr_pages = nr;
	r->after = after;
	r->aux = ret;
	r->duration_ns = saturate(ns);
	r->flags = flags;
	r->nr_present = after && !(after & UAP_ABSENT) ? 1 : 0;
	submit_to(w, r, UAP_SET_DIRECT_MAP);
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
	u64 id = bpf_get_current_pid_tgid();
	struct uap_context *c = context_of(key_of(id));
	u64 *w = words();
	u64 end_ns;

	if (!c || !c->in_map || !w)
		return 0;
	c->in_map = 0;
	end_ns = c->map_end_ns;
	if (end_ns)
		time_call_to(w, c->map_flags & UAP_F_INVALID ? UAP_H_SET_INVALID : UAP_H_SET_DEFAULT, c->map_ns);
	else
		end_ns = bpf_ktime_get_ns();
	send_set(c, id, w, c->map_pfn, c->map_nr, c->map_flags, ret, c->map_ns, end_ns);
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

/* A field of the struct cpa_data that an exit program was given: where its type is known, a plain load reads it. */
static __always_inline u64 cpa_field(u64 *ctx, const int via, u64 cpa, u64 offset)
{
	return via == UAP_VIA_ARGUMENTS ? load_u64(ctx[0] + offset) : cpa_word(cpa, offset);
}

/*
 * Where the function returns to that this exit program is on. Its trampoline was come to from the function's first instruction: by a
 * call, which left the address after it on the stack, or by a jump (7.3). It lies after the arguments, the result and a frame pointer.
 */
static __always_inline u64 returns_to(u64 *ctx, u32 nr_arguments, u64 code, u64 code_bytes)
{
	u64 address = read_u64((u64)(ctx + nr_arguments + 2));

	if (address - code < code_bytes)
		address = read_u64((u64)(ctx + nr_arguments + 3));
	return address;
}

/* Which set_direct_map_*() an attribute change is, by what it changes: only those change both bits at once. Flags of its record, 0: none. */
static __always_inline u32 set_by_masks(u64 *ctx, u64 cpa)
{
	u64 both = UAP_PRESENT | UAP_WRITABLE;
	u32 nr = cpa_field(ctx, UAP_VIA_ARGUMENTS, cpa, UAP_CPA_NUMPAGES) == 1 ? 0 : UAP_F_VALID_NR;

	if ((cpa_field(ctx, UAP_VIA_ARGUMENTS, cpa, UAP_CPA_MASK_SET) & both) == both)
		return nr | UAP_F_DEFAULT;
	if ((cpa_field(ctx, UAP_VIA_ARGUMENTS, cpa, UAP_CPA_MASK_CLR) & both) == both)
		return nr | UAP_F_INVALID;
	return 0;
}

/*
 * Which set_direct_map_*() an attribute change is all of, by where it returns to, as flags of its record; 0: none. So nothing has to be
 * hooked on those.
 */
static __always_inline u32 set_by_caller(u64 *ctx, u64 cpa)
{
	u64 caller = returns_to(ctx, 2, UAP_CPA_CODE, UAP_CPA_CODE_BYTES);

	if (caller - UAP_SET_INVALID_CODE < UAP_SET_INVALID_CODE_BYTES)
		return UAP_F_INVALID;
	if (caller - UAP_SET_DEFAULT_CODE < UAP_SET_DEFAULT_CODE_BYTES)
		return UAP_F_DEFAULT;
	if (caller - UAP_SET_VALID_CODE < UAP_SET_VALID_CODE_BYTES)
		return UAP_F_VALID_NR | (cpa_field(ctx, UAP_VIA_ARGUMENTS, cpa, UAP_CPA_MASK_SET) & UAP_PRESENT ? UAP_F_DEFAULT : UAP_F_INVALID);
	/* A return probe or graph tracer of somebody else's has put its own there, and hides the caller. */
	if (caller == UAP_GRAPH_RETURN || caller == UAP_PROBE_RETURN)
		return set_by_masks(ctx, cpa);
	/* No code: a kernel that lays out its trampolines in a third way. Which calls these are is then not known, and it is said. */
	if (caller < UAP_KERNEL_IMAGE)
		add(UAP_C_CONTEXT_LOST, 1);
	return 0;
}

static __always_inline int cpa_exit(u64 *ctx, const int via, int ret)
{
	u64 id = bpf_get_current_pid_tgid();
	struct uap_context *c = context_of(key_of(id));
	u64 *w = words();
	u64 ns = 0, end_ns = 0, cpa;
	u32 bucket = 0, flags = 0;

	if (!c || !c->cpa_depth || !w)
		return 0;
	c->cpa_depth--;
	cpa = c->cpa[bounded(c->cpa_depth, 3)];
	if (!c->cpa_depth) {
		end_ns = bpf_ktime_get_ns();
		ns = end_ns - c->cpa_start_ns;
		bucket = bucket_of(ns);
		add_to(w, UAP_C_CPA, 1);
		if (ret)
			add_to(w, UAP_C_CPA_FAILED, 1);
		count_call(w, UAP_H_CPA, bucket, ns);
		if (c->in_map) {
			c->map_ns += ns;
			c->map_end_ns = end_ns;
		}
		if (via == UAP_VIA_ARGUMENTS && UAP_CPA_CODE_BYTES)
			flags = set_by_caller(ctx, cpa);
	}
	if (flags) {
		u64 address = read_u64(cpa_field(ctx, via, cpa, UAP_CPA_VADDR));
		u32 nr = flags & UAP_F_VALID_NR ? cpa_field(ctx, via, cpa, UAP_CPA_NUMPAGES) : 1;

		count_call(w, flags & UAP_F_INVALID ? UAP_H_SET_INVALID : UAP_H_SET_DEFAULT, bucket, ns);
		send_set(c, id, w, (address - UAP_PAGE_OFFSET) >> 12, nr, flags, ret, ns, end_ns);
	} else if (!c->in_map && ((cpa_field(ctx, via, cpa, UAP_CPA_MASK_SET) | cpa_field(ctx, via, cpa, UAP_CPA_MASK_CLR)) & UAP_PRESENT)) {
		/* Where set_direct_map_*() has programs, they send the record. */
		send_presence(cpa, ret, ns);
	}
	drop_context_if_idle(c);
	return 0;
}

ENTER(CPA, cpa_enter(SCALAR(0)))
EXIT(CPA, 2, cpa_exit((u64 *)ctx, via, (int)RESULT))

/*
 * Inside __change_page_attr_set_clr() only a split that succeeded calls flush_tlb_all(): the split functions
 * themselves are inlined away. The page is the one that cpa->curpage says.
 */
static __always_inline int split_seen(void *ctx)
{
	struct uap_context *c = find_context();
	struct uap_record *r;
	u64 cpa, given, address, pfn;
	u32 level, flags = 0, split, nr, stack;

	add(UAP_C_FLUSH_ALL, 1);
	if (!c || !c->cpa_depth)
		return 0;
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
