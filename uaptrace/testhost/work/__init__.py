# SPDX-License-Identifier: Apache-2.0
"""Work that makes a kernel change its direct map, in exactly known amounts: what kernel/workload does."""
