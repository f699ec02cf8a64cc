# SPDX-License-Identifier: Apache-2.0
"""What each design for grouping direct-map changes would have kept: requests replayed against a model of each.

``requests`` and ``synthetic`` make the requests, ``memory`` the physical memory they meet, ``engine`` has the page
allocator, the direct map and the designs, ``simulation`` runs them. Nothing here does I/O or reads a clock.
"""
