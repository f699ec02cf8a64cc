// SPDX-License-Identifier: GPL-2.0
/*
 * What secret memory is given: a page that the direct map lacks. Looked at where the fault returns, it shows whether the request for it
 * reached the cache, and nothing has to be hooked on the page allocator's own path.
 */

static __always_inline int secret_fault_enter(u64 vmf)
{
	struct uap_context *c = make_context();

	if (!c)
		return 0;
	expect_outside(c->fault != 0);
	c->fault = vmf;
	return 0;
}

static __always_inline int secret_fault_exit(void *ctx, u32 ret)
{
	struct uap_context *c = find_context();
	struct uap_block_state state = {};
	struct uap_record *r;
	u32 stack = 0;
	u64 pfn, page;

	if (!c || !c->fault)
		return 0;
	page = ret & UAP_VM_FAULT_LOCKED ? read_u64(c->fault + UAP_VM_FAULT_PAGE) : 0;
	c->fault = 0;
	if (page) {
		pfn = page_to_pfn(page);
		region_state(pfn, 1, 0, &state);
		if (state.nr_present)
			stack = send_stack(ctx, 1);
		r = begin_record_at(UAP_REQUEST, bpf_ktime_get_ns(), c);
		if (r) {
			r->pfn = pfn;
			r->nr_pages = 1;
			r->after = state.mapping;
			r->nr_present = state.nr_present;
			r->flags = UAP_F_BY_CALLER;
			r->stack_id = stack;
			submit(r, UAP_REQUEST);
		}
	}
	drop_context_if_idle(c);
	return 0;
}

ENTER(SECRETMEM_FAULT, secret_fault_enter(ARG(0)))
EXIT(SECRETMEM_FAULT, 1, secret_fault_exit(ctx, (u32)RESULT))
