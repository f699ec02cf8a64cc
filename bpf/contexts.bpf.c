// SPDX-License-Identifier: GPL-2.0
/* What a task is in the middle of: made when a hooked call begins, found while it lasts. */

/* What a process is called, and when it began: by that one process with a tgid is told from the next. */
struct uap_name {
	u64 comm[2];
	u64 start_ns;
};

/* What a task is in the middle of. One for each task inside a hooked call. */
struct uap_context {
	u64 users;		/* 1: of the task in key. Others that tried this place add to it for a moment */
	u64 passed;		/* not 0: a task whose first place this is may have its context at a later one */
	u64 key;		/* task_key(), 0: free */
	struct uap_name name;	/* of the process tgid, which was sent. These two stay from one task of the place to the next */
	u64 tgid;
	u64 map_ns;		/* set_direct_map_*(): time in the attribute changes that it makes */
	u64 map_end_ns;		/* when the last of them returned */
	u64 map_pfn;
	u64 cpa[4];		/* struct cpa_data of each level of recursion */
	u64 cpa_start_ns;
	u64 cache_start_ns;	/* unmapped_pages_alloc() */
	u64 refill_pfn;
	u64 attempt_page;	/* what the page allocator gave, where that is seen */
	u64 free_start_ns;	/* unmapped_pages_free() */
	u64 shrink_start_ns;
	u64 fault;		/* secretmem_fault(): its struct vm_fault */
	u32 map_nr;
	u32 map_flags;
	u32 gfp;
	u32 nr_invalid;		/* set_direct_map_invalid calls since the refill */
	u32 nr_failed;
	u32 shrink_asked;
	u8 in_map;
	u8 cpa_depth;
	u8 in_cache;
	u8 order;
	u8 attempted;		/* a refill's own request to the page allocator was seen */
	u8 failed_attempts;
	u8 attempt_order;
	u8 refill_order;
	u8 refill_sent;
	u8 flushed;
	u8 flush_covers;
	u8 in_shrink;
	u8 rolled_back;		/* pages of the refill were made present again: it is being undone */
	u8 pad[3];
};

#define UAP_TASK_BITS 12
#define UAP_TASK_TRIES 4

/*
 * Contexts, at one of four places that the task's id says. Not a hash map: to make and delete an entry of one takes 1,000 instructions
 * (docs/performance.md), which was the most of what a call paid.
 */
BPF_ARRAY(tasks, struct uap_context, 1 << UAP_TASK_BITS);

/* id: bpf_get_current_pid_tgid(). Idle tasks all have tid 0: tell them apart by CPU. */
static __always_inline u32 key_of(u64 id)
{
	u32 tid = id;

	return tid ? tid : bpf_get_smp_processor_id() | 0x80000000U;
}

static __always_inline u32 task_key(void)
{
	return key_of(bpf_get_current_pid_tgid());
}

/* One of the places where a task's context may be. */
static __always_inline struct uap_context *context_at(u32 key, u32 attempt)
{
	/* Multiplied by 2^32 divided by the golden ratio, neighbouring ids lie far apart. */
	u32 index = (((key * 2654435769U) >> (32 - UAP_TASK_BITS)) + attempt) & ((1U << UAP_TASK_BITS) - 1);

	return tasks.lookup(&index);
}

static __always_inline struct uap_context *context_of(u32 key)
{
	u32 i;

#pragma unroll
	for (i = 0; i < UAP_TASK_TRIES; i++) {
		struct uap_context *c = context_at(key, i);

		if (c && c->key == key)
			return c;
		if (c && !i && !c->passed)
			return 0;
	}
	return 0;
}

static __always_inline struct uap_context *find_context(void)
{
	return context_of(task_key());
}

/*
 * A place is taken by adding one to its users and finding that nobody else has: who finds more goes on to the next one. Two that come
 * at the same time may both go on; two can never both find one. 5.10 has no atomic operation that gives the value before it.
 * What the task before it left there is of calls that returned: those that begin one set what belongs to it.
 */
static __always_inline struct uap_context *take_place(u32 key, u32 attempt)
{
	struct uap_context *c = context_at(key, attempt);

	if (!c)
		return 0;
	__sync_fetch_and_add(&c->users, 1);
	if (*(volatile u64 *)&c->users == 1) {
		*(volatile u64 *)&c->key = key;
		return c;
	}
	__sync_fetch_and_add(&c->users, -1);
	*(volatile u64 *)&c->passed = 1;
	return 0;
}

static __always_inline struct uap_context *make_context_of(u32 key)
{
	struct uap_context *c = context_of(key);
	u32 i;

	if (c)
		return c;
#pragma unroll
	for (i = 0; i < UAP_TASK_TRIES; i++) {
		c = take_place(key, i);
		if (c)
			return c;
	}
	add(UAP_C_CONTEXT_LOST, 1);
	return 0;
}

static __always_inline struct uap_context *make_context(void)
{
	return make_context_of(task_key());
}

/*
 * On entry: the task is in such a call already, which cannot be. The return of that one was not seen: a kretprobe has room for
 * so many calls at a time (maxactive), and what it leaves out (nmissed) is told nowhere else.
 */
static __always_inline void expect_outside(u32 inside)
{
	if (inside)
		add(UAP_C_CONTEXT_LOST, 1);
}

static __always_inline void drop_context_if_idle(struct uap_context *c)
{
	if (c->in_map || c->cpa_depth || c->in_cache || c->in_shrink || c->free_start_ns || c->fault)
		return;
	*(volatile u64 *)&c->key = 0;
	__sync_fetch_and_add(&c->users, -1);
}
