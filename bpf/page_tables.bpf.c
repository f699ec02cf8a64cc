// SPDX-License-Identifier: GPL-2.0
/* The kernel's page tables, as they are now. */

#define UAP_PRESENT 1ULL
#define UAP_WRITABLE 2ULL
#define UAP_LEAF 0x80ULL
#define UAP_GLOBAL_OR_PROTNONE 0x100ULL

static __always_inline u64 page_to_pfn(u64 page)
{
	return (page - UAP_VMEMMAP) / UAP_STRUCT_PAGE_SIZE;
}

static __always_inline u64 direct_address(u64 pfn)
{
	return UAP_PAGE_OFFSET + (pfn << 12);
}

static __always_inline int in_direct_map(u64 address)
{
	return address >= UAP_PAGE_OFFSET && address < UAP_PAGE_OFFSET + UAP_DIRECT_MAP_SIZE;
}

/* The table that an entry points to, as an address in the direct map (page tables are never absent from it). */
static __always_inline u64 next_table(u64 entry)
{
	return UAP_PAGE_OFFSET + (entry & UAP_PFN_MASK);
}

/* What an entry of the last level says. */
static __always_inline u32 mapping_by(u64 entry)
{
	if (!entry)
		return UAP_UNKNOWN;
	return UAP_4K | (entry & UAP_PRESENT ? 0 : UAP_ABSENT);
}

/*
 * Where the walk for an address ends: *entry and the level. For a 4K mapping *table is the address of its page table.
 * An entry that is zero is no mapping at all; one that is not zero and not present is absent.
 */
static __always_inline u32 walk(u64 address, u64 *entry, u64 *table)
{
	u64 e, t = UAP_FIRST_PUD;

	/* The first 512G of the direct map, or less: the loader has been that far. Its table stays, there is always memory in it. */
	if (address >> 39 != UAP_PAGE_OFFSET >> 39 || !t) {
		t = UAP_INIT_PGD;
		if (UAP_LEVELS == 5) {
			e = read_u64(t + ((address >> 48) & 511) * 8);
			if (!(e & UAP_PRESENT))
				return UAP_UNKNOWN;
			t = next_table(e);
		}
		e = read_u64(t + ((address >> 39) & 511) * 8);
		if (!(e & UAP_PRESENT))
			return UAP_UNKNOWN;
		t = next_table(e);
	}
	e = read_u64(t + ((address >> 30) & 511) * 8);
	*entry = e;
	if (e & UAP_LEAF)
		return UAP_1G | (e & UAP_PRESENT ? 0 : UAP_ABSENT);
	if (!(e & UAP_PRESENT))
		return e ? UAP_1G | UAP_ABSENT : UAP_UNKNOWN;
	t = next_table(e);
	e = read_u64(t + ((address >> 21) & 511) * 8);
	*entry = e;
	if (e & UAP_LEAF)
		return UAP_2M | (e & UAP_PRESENT ? 0 : UAP_ABSENT);
	if (!(e & UAP_PRESENT))
		return e ? UAP_2M | UAP_ABSENT : UAP_UNKNOWN;
	t = next_table(e);
	*table = t;
	e = read_u64(t + ((address >> 12) & 511) * 8);
	*entry = e;
	return mapping_by(e);
}

static __always_inline u32 mapping_of(u64 address)
{
	u64 entry = 0, table = 0;

	return walk(address, &entry, &table);
}

struct uap_block_state {
	u32 nr_present;
	u32 mapping;
};

/*
 * The same values, of which the verifier knows nothing any more: after the many ways through a walk it then goes on once, and not once
 * for each of them. It does not follow what is kept in a map. slot: scratch space of the calling program.
 */
static __always_inline void forget(struct uap_block_state *state, u32 slot)
{
	struct uap_scratch *s = scratch.lookup(&slot);
	volatile u64 *kept;

	if (!s) {
		state->nr_present = state->mapping = 0;
		return;
	}
	kept = s->e;
	kept[0] = state->nr_present;
	kept[1] = state->mapping;
	state->nr_present = kept[0];
	state->mapping = kept[1];
}

/* How many of nr pages from pfn, all in one 2M region, are present. slot: scratch space of the calling program. */
static __always_inline void region_state(u64 pfn, u32 nr, u32 slot, struct uap_block_state *state)
{
	u64 entry = 0, table = 0;
	u32 mapping = walk(direct_address(pfn), &entry, &table);
	struct uap_scratch *s;
	u32 i, present = 0, size;

	state->mapping = mapping;
	if (!table) {
		/* One large entry, or nothing at all, for all of the pages. */
		state->nr_present = mapping && !(mapping & UAP_ABSENT) ? nr : 0;
		return;
	}
	if (nr <= 1) {
		state->nr_present = entry & UAP_PRESENT;
		return;
	}
	state->nr_present = 0;
	s = scratch.lookup(&slot);
	if (!s)
		return;
	size = nr * 8;
	if (size >= sizeof(s->e)) {
		if (bpf_probe_read_kernel(s->e, sizeof(s->e), (void *)table))
			return;
	} else {
		/* Nothing can be read from 0: the kernel then fills the whole of it with zeros, which are not present. */
		bpf_probe_read_kernel(s->e, sizeof(s->e), 0);
		if (bpf_probe_read_kernel(s->e, bounded(size, sizeof(s->e) - 1), (void *)(table + (pfn & 511) * 8)))
			return;
	}
	/*
	 * A fixed number of steps without a branch, and without nr: the verifier follows one path through it, whatever a compiler
	 * knows of nr. It compares each turn of a loop with all turns before, so sixteen steps a turn are much less to compare.
	 */
#pragma clang loop unroll_count(16)
	for (i = 0; i < 512; i++)
		present += (u32)s->e[i] & (u32)UAP_PRESENT;
	state->nr_present = present;
	state->mapping = UAP_4K | (!present ? UAP_ABSENT : present < nr ? UAP_MIXED : 0);
}

/* Pages of a block of the buddy kind (2^order pages, naturally aligned; order 10 takes two regions). */
static __always_inline void block_state(u64 pfn, u32 order, u32 slot, struct uap_block_state *state)
{
	u32 nr = 1U << (order & 15), i, mapping = 0;

	state->nr_present = 0;
#pragma clang loop unroll(disable)
	for (i = 0; i < 2; i++) {
		struct uap_block_state part = {};

		region_state(pfn + i * 512, nr < 512 ? nr : 512, slot, &part);
		forget(&part, slot);
		state->nr_present += part.nr_present;
		mapping = !i ? part.mapping : part.mapping == mapping ? mapping : (mapping & UAP_LEVEL_MASK) | UAP_MIXED;
		if (nr <= 512)
			break;
	}
	state->mapping = mapping;
}
