// SPDX-License-Identifier: GPL-2.0
/*
 * Times reads of kernel memory of which each has to wait for the one before.
 * A program of its own, never attached: uaptrace cost runs it by BPF_PROG_TEST_RUN.
 *
 * ctx[0]: which chain. ctx[1]: 0. What a read finds is part of the next address through this zero, which neither the compiler nor the
 * verifier nor the processor knows.
 */
#define UAP_CHAIN_READS 4096

struct uap_chain {
	u64 address[UAP_CHAIN_READS];
};

struct uap_timing {
	u64 ns;
	u64 failed;	/* not 0: some address could not be read, and the time means nothing */
};

/* As many chains as the caller asks for. */
BPF_F_TABLE("array", u32, struct uap_chain, chains, 1, 1024 /* BPF_F_MMAPABLE */);
BPF_F_TABLE("array", u32, struct uap_timing, timing, 1, 1024 /* BPF_F_MMAPABLE */);

int time_reads(unsigned long long *ctx)
{
	u32 which = (u32)ctx[0], zero = 0, i;
	u64 nothing = ctx[1], found = 0, failed = 0, begin;
	struct uap_chain *chain = chains.lookup(&which);
	struct uap_timing *result = timing.lookup(&zero);

	if (!chain || !result)
		return 1;
	begin = bpf_ktime_get_ns();
	/* The verifier compares each turn of a loop with all turns before: sixteen reads a turn are much less to compare. */
#pragma clang loop unroll_count(16)
	for (i = 0; i < UAP_CHAIN_READS; i++) {
		u64 value = 0;

		failed |= (u64)bpf_probe_read_kernel(&value, sizeof(value), (void *)(chain->address[i] + found));
		found = value & nothing;
	}
	result->ns = bpf_ktime_get_ns() - begin;
	result->failed = failed;
	return 0;
}
