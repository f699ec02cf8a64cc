# SPDX-License-Identifier: Apache-2.0
# C types for headers.py.

from libc.stdint cimport int64_t, uint32_t

cimport cython

@cython.locals(i=int64_t, at=int64_t)
cpdef int64_t plain_records(const uint32_t[::1] words, int64_t first, int64_t count, int64_t step, uint32_t length) except -1
