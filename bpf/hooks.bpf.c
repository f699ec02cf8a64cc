// SPDX-License-Identifier: GPL-2.0
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
