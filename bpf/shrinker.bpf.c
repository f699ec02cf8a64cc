// SPDX-License-Identifier: GPL-2.0
/* The cache's shrinker: what it was asked for and what it gave back. */

static __always_inline int scan_enter(u64 control)
{
	struct uap_context *c = make_context();

	if (!c)
		return 0;
	expect_outside(c->in_shrink);
	c->in_shrink = 1;
	c->shrink_start_ns = bpf_ktime_get_ns();
	c->shrink_asked = (u32)read_u64(control + UAP_SHRINK_NR_TO_SCAN);
	return 0;
}

static __always_inline int scan_exit(u64 ret)
{
	struct uap_context *c = find_context();
	/* SHRINK_STOP is ~0UL: nothing could be done. */
	u32 released = ret == ~0ULL ? 0 : (u32)ret;
	struct uap_record *r;
	u64 ns;

	if (!c || !c->in_shrink)
		return 0;
	ns = bpf_ktime_get_ns() - c->shrink_start_ns;
	c->in_shrink = 0;
	add(UAP_C_SHRINK_SCAN, 1);
	add(UAP_C_SHRINK_ASKED_PAGES, c->shrink_asked);
	add(UAP_C_SHRINK_RELEASED_PAGES, released);
	time_call(UAP_H_SHRINK, ns);
	r = begin_record(UAP_SHRINK);
	if (r) {
		r->nr_pages = released;
		r->aux = c->shrink_asked;
		r->duration_ns = saturate(ns);
		submit(r, UAP_SHRINK);
	}
	drop_context_if_idle(c);
	return 0;
}

static __always_inline int count_enter(void)
{
	add(UAP_C_SHRINK_COUNT, 1);
	return 0;
}

ENTER(SHRINK_SCAN, scan_enter(ARG(1)))
EXIT(SHRINK_SCAN, 2, scan_exit(RESULT))
ENTER(SHRINK_COUNT, count_enter())
