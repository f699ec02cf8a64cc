# SPDX-License-Identifier: Apache-2.0
"""BPF by system call: programs, maps, links, BTF; the mapped ring and the counters."""
