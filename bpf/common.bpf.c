// SPDX-License-Identifier: GPL-2.0
/*
 * What every subject needs: maps, records, counters, and what a task is in the middle of.
 *
 * They are put into one text, common.bpf.c first, and compiled once for every kernel. What differs between kernels is a constant that
 * is put into the instructions when they are loaded (UAP_AT_LOAD): each field of KernelConstants (uaptrace/loader/program.py) as
 * UAP_<FIELD>. How large ring, counters and tasks are is said when they are made.
 */
#ifndef __always_inline
#define __always_inline inline __attribute__((always_inline))
#endif

/*
 * A constant of the running kernel: the loader writes its value into the instruction. The compiler must not know what stands there, or
 * it would calculate with it. The verifier knows it, and leaves out what a test of it excludes.
 */
#define UAP_AT_LOAD(number) ({ u64 at_load; asm("%0 = " #number " ll" : "=r"(at_load)); at_load; })

struct pt_regs {
	unsigned long r15, r14, r13, r12, bp, bx, r11, r10, r9, r8;
	unsigned long ax, cx, dx, si, di, orig_ax, ip, cs, flags, sp, ss;
};

struct uap_words {
	u64 w[UAP_C_WORDS];
};

/* What a process is called, and when it began: by that one process with a tgid is told from the next. */
struct uap_name {
	u64 comm[2];
	u64 start_ns;
};

struct uap_scratch {
	u64 e[512];
};

/* What a task is in the middle of. One for each task inside a hooked call. */
struct uap_context {
	u64 users;		/* 1: of the task in key. Others that tried this place add to it for a moment */
	u64 key;		/* task_key(), 0: free */
	struct uap_name name;	/* of the process tgid, which was sent. These two stay from one task of the place to the next */
	u64 tgid;
	u64 map_ns;		/* set_direct_map_*(): time in the attribute changes that it makes */
	u64 map_end_ns;		/* when the last of them returned */
	u64 map_pfn;
	u64 map_entry;		/* address of its page-table entry, 0: it is in no 4K mapping */
	u64 map_nr_splits;	/* splits anywhere when that was read */
	u64 cpa[4];		/* struct cpa_data of each level of recursion */
	u64 cpa_start_ns;
	u64 cache_start_ns;	/* unmapped_pages_alloc() */
	u64 refill_pfn;
	u64 attempt_page;	/* what the page allocator gave, where that is seen */
	u64 free_start_ns;	/* unmapped_pages_free() */
	u64 shrink_start_ns;
	u32 map_nr;
	u32 map_flags;
	u32 gfp;
	u32 nr_invalid;		/* set_direct_map_invalid calls since the refill */
	u32 nr_failed;
	u32 shrink_asked;
	u8 map_before;
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
	u8 pad[6];
};

#define UAP_TASK_BITS 12
#define UAP_TASK_TRIES 4

/* The loader makes these two as large as they are to be: bytes, CPUs. */
BPF_RINGBUF_OUTPUT(ring, 1);
BPF_F_TABLE("array", u32, struct uap_words, counters, 1, 1024 /* BPF_F_MMAPABLE */);
/*
 * Contexts, at one of four places that the task's id says. Not a hash map: to make and delete an entry of one takes 1,000 instructions
 * (docs/performance.md), which was the most of what a call paid.
 */
BPF_ARRAY(tasks, struct uap_context, 1 << UAP_TASK_BITS);
BPF_TABLE("lru_hash", u32, struct uap_name, named_tasks, 4096);
BPF_TABLE("lru_hash", u32, u32, sent_stacks, 4096);
/* One slot for each program that needs scratch space: a program never runs inside itself on one CPU, but others may. */
BPF_PERCPU_ARRAY(scratch, struct uap_scratch, 8);
BPF_PERCPU_ARRAY(stack_scratch, struct uap_scratch, 2);
/* Tasks inside unmapped_pages_alloc(): what __alloc_pages() looks at before it looks for the task. */
BPF_ARRAY(nr_in_cache, u64, 1);
/* Splits seen, by any task, of any mapping. */
BPF_ARRAY(nr_splits, u64, 1);

/*
 * Helpers that not every kernel has, by their numbers in include/uapi/linux/bpf.h. A constant of the kernel says whether it has
 * them (UAP_HAS_...); the verifier does not look at a call that its test leaves out.
 */
static u64 (*task_btf)(void) = (void *)158;			/* bpf_get_current_task_btf() */
static long (*func_arg)(void *ctx, u32 n, u64 *value) = (void *)183;	/* bpf_get_func_arg() */
static long (*func_ret)(void *ctx, u64 *value) = (void *)184;	/* bpf_get_func_ret() */
/*
 * bpf_rdonly_cast() is no helper: of a call of this number, which no helper has, the loader makes one of that function of the kernel
 * (KERNEL_CALL in uaptrace/ebpf/compiled.py). What it returns can be read from by a plain load.
 */
static u64 (*rdonly_cast)(u64 address, u64 type) = (void *)UAP_RDONLY_CAST_CALL;

/* A load through a pointer whose type the verifier knows. One that faults gives 0, as in read_u64(). */
static __always_inline u64 load_u64(u64 pointer)
{
	u64 value;

	asm volatile("%0 = *(u64 *)(%1 + 0)" : "=r"(value) : "r"(pointer));
	return value;
}

static __always_inline u64 read_u64(u64 address)
{
	u64 value = 0;

	if (UAP_RDONLY_CAST)
		return load_u64(rdonly_cast(address, UAP_PAGE_TYPE));
	bpf_probe_read_kernel(&value, sizeof(value), (void *)address);
	return value;
}

/*
 * A size or an index for the verifier: value & mask, where mask is 2^n - 1. The AND is to be in the instructions, on the whole
 * register: a compiler that knows the bound from a comparison leaves it out, and one that compares the low half only (LLVM 19)
 * leaves the verifier without a bound. A constant needs none.
 */
static __always_inline u64 bounded(u64 value, u64 mask)
{
	if (__builtin_constant_p(value))
		return value & mask;
	asm volatile("" : "+r"(value));
	return value & mask;
}

static __always_inline u64 *words(void)
{
	u32 cpu = bpf_get_smp_processor_id();
	struct uap_words *block = counters.lookup(&cpu);

	return block ? block->w : 0;
}

/* Atomic: a program can be interrupted by another one on its CPU. */
static __always_inline void add_to(u64 *w, u32 counter, u64 n)
{
	__sync_fetch_and_add(&w[bounded(counter, UAP_C_WORDS - 1)], n);
}

static __always_inline void add(u32 counter, u64 n)
{
	u64 *w = words();

	if (w)
		add_to(w, counter, n);
}

static __always_inline void time_call_to(u64 *w, u32 histogram, u64 ns)
{
	u32 bucket = 0;
	u64 v = ns;

	if (v >> 31) {
		bucket = 31;
	} else {
		if (v >> 16) { bucket += 16; v >>= 16; }
		if (v >> 8) { bucket += 8; v >>= 8; }
		if (v >> 4) { bucket += 4; v >>= 4; }
		if (v >> 2) { bucket += 2; v >>= 2; }
		if (v >> 1) bucket += 1;
	}
	add_to(w, UAP_C_HISTOGRAM + histogram * UAP_HISTOGRAM_BUCKETS + bucket, 1);
	add_to(w, UAP_C_HISTOGRAM_SUM + histogram, ns);
}

static __always_inline void time_call(u32 histogram, u64 ns)
{
	u64 *w = words();

	if (w)
		time_call_to(w, histogram, ns);
}

static __always_inline u32 saturate(u64 ns)
{
	return ns > 0xffffffffULL ? 0xffffffffU : (u32)ns;
}

/* Idle tasks all have tid 0: tell them apart by CPU. */
static __always_inline u32 task_key(void)
{
	u32 tid = bpf_get_current_pid_tgid();

	return tid ? tid : bpf_get_smp_processor_id() | 0x80000000U;
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
 */
static __always_inline struct uap_context *make_context_of(u32 key)
{
	struct uap_context *c = context_of(key);
	u32 i, at;

	if (c)
		return c;
#pragma unroll
	for (i = 0; i < UAP_TASK_TRIES; i++) {
		c = context_at(key, i);
		if (!c)
			continue;
		__sync_fetch_and_add(&c->users, 1);
		if (*(volatile u64 *)&c->users == 1) {
			/* Word by word: of a memset() from the middle on, LLVM 14 makes a store for each byte. */
#pragma unroll
			for (at = __builtin_offsetof(struct uap_context, map_ns) / 8; at < sizeof(*c) / 8; at++)
				((u64 *)c)[at] = 0;
			*(volatile u64 *)&c->key = key;
			return c;
		}
		__sync_fetch_and_add(&c->users, -1);
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
	if (c->in_map || c->cpa_depth || c->in_cache || c->in_shrink || c->free_start_ns)
		return;
	*(volatile u64 *)&c->key = 0;
	__sync_fetch_and_add(&c->users, -1);
}

/*
 * The result is to be tested once only: before 6.2 the verifier takes a second test for one that may fail, and then
 * misses the record.
 */
static __always_inline struct uap_record *reserve(u32 kind)
{
	struct uap_record *r = ring.ringbuf_reserve(sizeof(*r));

	if (!r)
		add(UAP_C_LOST + kind, 1);
	return r;
}

static __always_inline void submit_to(u64 *w, struct uap_record *r, u32 kind)
{
	ring.ringbuf_submit(r, 0);
	add_to(w, UAP_C_EMITTED + kind, 1);
}

static __always_inline void submit(struct uap_record *r, u32 kind)
{
	ring.ringbuf_submit(r, 0);
	add(UAP_C_EMITTED + kind, 1);
}

static __always_inline int same_name(struct uap_name *a, struct uap_name *b)
{
	return a->comm[0] == b->comm[0] && a->comm[1] == b->comm[1] && a->start_ns == b->start_ns;
}

#define UAP_NO_TGID ~0ULL

/*
 * The name of the process goes before its first record, and again when it changes (exec) or the tgid is another process's. It is
 * the name of the group's leader: threads may have names of their own. Idle tasks all have tgid 0: one name does for all.
 * c: remembers the last name, so that it need not be looked up; 0: nothing does.
 */
static __always_inline void name_task(u64 id, struct uap_context *c)
{
	u32 tgid = id >> 32;
	struct uap_name name = {}, *known;
	struct uap_record *r;
	u64 *p;

	if (UAP_HAS_TASK_BTF) {
		u64 leader = load_u64(task_btf() + UAP_TASK_GROUP_LEADER);

		name.comm[0] = load_u64(leader + UAP_TASK_COMM);
		name.comm[1] = load_u64(leader + UAP_TASK_COMM + 8);
		name.start_ns = load_u64(leader + UAP_TASK_START_TIME);
	} else {
		u64 leader = read_u64(bpf_get_current_task() + UAP_TASK_GROUP_LEADER);

		bpf_probe_read_kernel(name.comm, sizeof(name.comm), (void *)(leader + UAP_TASK_COMM));
		name.start_ns = read_u64(leader + UAP_TASK_START_TIME);
	}
	if (c) {
		if (c->tgid == tgid && same_name(&c->name, &name))
			return;
		c->name = name;
		c->tgid = UAP_NO_TGID;
	}
	known = named_tasks.lookup(&tgid);
	if (known && (!tgid || same_name(known, &name))) {
		if (c)
			c->tgid = tgid;
		return;
	}
	r = reserve(UAP_TASK);
	if (!r)
		return;
	named_tasks.update(&tgid, &name);
	__builtin_memset(r, 0, sizeof(*r));
	r->time_ns = bpf_ktime_get_ns();
	r->kind = UAP_TASK;
	p = (u64 *)r;
	p[1] = name.comm[0];
	p[2] = name.comm[1];
	r->tgid = tgid;
	r->cgroup_id = name.start_ns;
	submit(r, UAP_TASK);
}

/* Reserve a record of the current task, of that time, all other fields zero; the caller submits it. c: as in name_task(). */
static __always_inline struct uap_record *begin_record_at(u32 kind, u64 time_ns, struct uap_context *c)
{
	u64 id = bpf_get_current_pid_tgid();
	struct uap_record *r;

	name_task(id, c);
	r = reserve(kind);
	if (!r)
		return 0;
	__builtin_memset(r, 0, sizeof(*r));
	r->kind = kind;
	r->time_ns = time_ns;
	r->tid = id;
	r->tgid = id >> 32;
	r->cgroup_id = bpf_get_current_cgroup_id();
	return r;
}

static __always_inline struct uap_record *begin_record(u32 kind)
{
	return begin_record_at(kind, bpf_ktime_get_ns(), 0);
}

/* Take the kernel stack, send its frames once, give its hash. slot: 0 for splits, 1 for others. */
static __always_inline u32 send_stack(void *ctx, u32 slot)
{
	struct uap_scratch *s = stack_scratch.lookup(&slot);
	struct uap_record *r;
	u32 hash = 2166136261U, nr, known = 1, i;
	int size;

	if (!s)
		return 0;
	size = bpf_get_stack(ctx, s->e, UAP_STACK_FRAMES * 8, 0);
	if (size <= 0)
		return 0;
	nr = (u32)size / 8;
	if (nr > UAP_STACK_FRAMES)
		nr = UAP_STACK_FRAMES;
#pragma clang loop unroll(disable)
	for (i = 0; i < UAP_STACK_FRAMES; i++) {
		u64 frame = s->e[i] & (0 - (u64)((i - nr) >> 31));	/* no branch: one path for the verifier */

		hash = (hash ^ (u32)frame) * 16777619U;
		hash = (hash ^ (u32)(frame >> 32)) * 16777619U;
	}
	if (!hash)
		hash = 1;
	if (sent_stacks.lookup(&hash))
		return hash;
#pragma clang loop unroll(disable)
	for (i = 0; i < UAP_STACK_FRAMES / 4; i++) {
		u64 *p;

		if (i * 4 >= nr)
			break;
		r = reserve(UAP_STACK);
		if (!r)
			return hash;	/* not marked as sent: the next one tries again */
		__builtin_memset(r, 0, sizeof(*r));
		r->time_ns = bpf_ktime_get_ns();
		p = (u64 *)r;
		p[1] = s->e[i * 4];
		p[2] = i * 4 + 1 < nr ? s->e[i * 4 + 1] : 0;
		p[3] = i * 4 + 2 < nr ? s->e[i * 4 + 2] : 0;
		p[4] = i * 4 + 3 < nr ? s->e[i * 4 + 3] : 0;
		r->stack_id = hash;
		r->kind = UAP_STACK;
		r->order = i;
		r->nr_present = nr;
		submit(r, UAP_STACK);
	}
	sent_stacks.update(&hash, &known);
	return hash;
}

/*
 * Hooks. A subject says ENTER(NAME, call) and EXIT(NAME, number of arguments, call) once, and two programs come of each: enter_NAME() is
 * called with the arguments (fentry, fexit, raw tracepoints), enter_NAME_regs() with registers (kprobes); the loader takes the one that
 * it needs. In the call, ARG(i), SCALAR(i), RET and RESULT are the arguments and the return value of either.
 */
#define UAP_VIA_ARGUMENTS 1
#define UAP_VIA_REGISTERS 2

/* A pointer argument is typed for the verifier, which then refuses arithmetic on it: read it raw. */
static __always_inline u64 raw_argument(void *ctx, u32 i)
{
	u64 value = 0;

	if (UAP_HAS_FUNC_ARG)
		func_arg(ctx, i, &value);
	else
		bpf_probe_read_kernel(&value, sizeof(value), (void *)((u64 *)ctx + i));
	return value;
}

static __always_inline u64 raw_result(void *ctx, u32 nr_arguments)
{
	u64 value = 0;

	if (UAP_HAS_FUNC_ARG)
		func_ret(ctx, &value);
	else
		bpf_probe_read_kernel(&value, sizeof(value), (void *)((u64 *)ctx + nr_arguments));
	return value;
}

#define UAP_REGS_ARGUMENT(ctx, i) \
	((i) == 0 ? ((struct pt_regs *)(ctx))->di : (i) == 1 ? ((struct pt_regs *)(ctx))->si : \
	 (i) == 2 ? ((struct pt_regs *)(ctx))->dx : ((struct pt_regs *)(ctx))->cx)
#define ARG(i) (via == UAP_VIA_ARGUMENTS ? raw_argument(ctx, i) : UAP_REGS_ARGUMENT(ctx, i))
#define SCALAR(i) (via == UAP_VIA_ARGUMENTS ? ((u64 *)ctx)[i] : UAP_REGS_ARGUMENT(ctx, i))
/* RESULT is no pointer, RET may be one. */
#define RESULT (via == UAP_VIA_ARGUMENTS ? ((u64 *)ctx)[nr_arguments] : ((struct pt_regs *)(ctx))->ax)
#define RET (via == UAP_VIA_ARGUMENTS ? raw_result(ctx, nr_arguments) : ((struct pt_regs *)(ctx))->ax)

#define ENTER(name, call) \
	int enter_##name(unsigned long long *ctx) { const int via = UAP_VIA_ARGUMENTS; return call; } \
	int enter_##name##_regs(struct pt_regs *ctx) { const int via = UAP_VIA_REGISTERS; return call; }
#define EXIT(name, nr, call) \
	int exit_##name(unsigned long long *ctx) { const int via = UAP_VIA_ARGUMENTS; const u32 nr_arguments = nr; return call; } \
	int exit_##name##_regs(struct pt_regs *ctx) { const int via = UAP_VIA_REGISTERS; const u32 nr_arguments = nr; return call; }
