// SPDX-License-Identifier: GPL-2.0
/*
 * Reads a table's worth of kernel memory into a map that the daemon has mapped, where there is no /proc/kcore.
 * A program of its own, never attached: the daemon runs it by BPF_PROG_TEST_RUN with the address as its argument.
 */
struct uap_window {
	u64 w[512];
};

BPF_F_TABLE("array", u32, struct uap_window, window, 1, 1024 /* BPF_F_MMAPABLE */);

int read_kernel(unsigned long long *ctx)
{
	u32 zero = 0;
	struct uap_window *to = window.lookup(&zero);

	if (!to)
		return 1;
	return bpf_probe_read_kernel(to->w, sizeof(to->w), (void *)ctx[0]) ? 1 : 0;
}
