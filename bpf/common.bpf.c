// SPDX-License-Identifier: GPL-2.0
/*
 * What every subject needs: constants of the kernel, reads of its memory, counters.
 *
 * They are put into one text, common.bpf.c first, and compiled once for every kernel. What differs between kernels is a constant that
 * is put into the instructions when they are loaded (UAP_AT_LOAD): each field of KernelConstants (uaptrace/loader/program.py) as
 * UAP_<FIELD>. How large ring and counters are is said when they are made.
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

struct uap_scratch {
	u64 e[512];
};

/* The loader makes these two as large as they are to be: bytes, CPUs. */
BPF_RINGBUF_OUTPUT(ring, 1);
BPF_F_TABLE("array", u32, struct uap_words, counters, 1, 1024 /* BPF_F_MMAPABLE */);
/* One slot for each program that needs scratch space: a program never runs inside itself on one CPU, but others may. */
BPF_PERCPU_ARRAY(scratch, struct uap_scratch, 8);
/* Tasks inside unmapped_pages_alloc(): what __alloc_pages() looks at before it looks for the task. */
BPF_ARRAY(nr_in_cache, u64, 1);

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

/* Which word of a histogram: 2^bucket is the highest power of two that is no more than ns. */
static __always_inline u32 bucket_of(u64 ns)
{
	u32 bucket = 0;
	u64 v = ns;

	if (v >> 31)
		return 31;
	if (v >> 16) { bucket += 16; v >>= 16; }
	if (v >> 8) { bucket += 8; v >>= 8; }
	if (v >> 4) { bucket += 4; v >>= 4; }
	if (v >> 2) { bucket += 2; v >>= 2; }
	if (v >> 1) bucket += 1;
	return bucket;
}

static __always_inline void count_call(u64 *w, u32 histogram, u32 bucket, u64 ns)
{
	add_to(w, UAP_C_HISTOGRAM + histogram * UAP_HISTOGRAM_BUCKETS + bucket, 1);
	add_to(w, UAP_C_HISTOGRAM_SUM + histogram, ns);
}

static __always_inline void time_call_to(u64 *w, u32 histogram, u64 ns)
{
	count_call(w, histogram, bucket_of(ns), ns);
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
