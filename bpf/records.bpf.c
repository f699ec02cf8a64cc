// SPDX-License-Identifier: GPL-2.0
/* Records of the ring: of whom, what the process is called, and which way the kernel came. */

BPF_TABLE("lru_hash", u32, struct uap_name, named_tasks, 4096);
BPF_TABLE("lru_hash", u32, u32, sent_stacks, 4096);
BPF_PERCPU_ARRAY(stack_scratch, struct uap_scratch, 2);

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

/* What the process of the current task is called. */
static __always_inline void read_name(struct uap_name *name)
{
	u64 leader;

	if (UAP_HAS_TASK_BTF) {
		leader = load_u64(task_btf() + UAP_TASK_GROUP_LEADER);
		name->comm[0] = load_u64(leader + UAP_TASK_COMM);
		name->comm[1] = load_u64(leader + UAP_TASK_COMM + 8);
		name->start_ns = load_u64(leader + UAP_TASK_START_TIME);
	} else {
		leader = read_u64(bpf_get_current_task() + UAP_TASK_GROUP_LEADER);
		bpf_probe_read_kernel(name->comm, sizeof(name->comm), (void *)(leader + UAP_TASK_COMM));
		name->start_ns = read_u64(leader + UAP_TASK_START_TIME);
	}
}

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

	read_name(&name);
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

/*
 * Reserve a record of the current task, of that time, all other fields zero; the caller submits it. c: as in name_task(); id:
 * bpf_get_current_pid_tgid().
 */
static __always_inline struct uap_record *begin_record_of(u32 kind, u64 time_ns, struct uap_context *c, u64 id)
{
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

static __always_inline struct uap_record *begin_record_at(u32 kind, u64 time_ns, struct uap_context *c)
{
	return begin_record_of(kind, time_ns, c, bpf_get_current_pid_tgid());
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
	for (i = 0; i < UAP_STACK_FRAMES / UAP_STACK_FRAMES_PER_RECORD; i++) {
		u32 first = i * UAP_STACK_FRAMES_PER_RECORD;
		u64 *p;

		if (first >= nr)
			break;
		r = reserve(UAP_STACK);
		if (!r)
			return hash;	/* not marked as sent: the next one tries again */
		__builtin_memset(r, 0, sizeof(*r));
		r->time_ns = bpf_ktime_get_ns();
		p = (u64 *)r;
		p[1] = s->e[first];
		p[2] = first + 1 < nr ? s->e[first + 1] : 0;
		p[3] = first + 2 < nr ? s->e[first + 2] : 0;
		p[4] = first + 3 < nr ? s->e[first + 3] : 0;
		r->stack_id = hash;
		r->kind = UAP_STACK;
		r->order = i;
		r->nr_present = nr;
		submit(r, UAP_STACK);
	}
	sent_stacks.update(&hash, &known);
	return hash;
}
