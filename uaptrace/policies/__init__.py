# SPDX-License-Identifier: Apache-2.0
"""The designs of the kernel contract's section 4, replayed over a trace. Pure."""
