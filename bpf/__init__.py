# SPDX-License-Identifier: Apache-2.0
"""The BPF C sources, as package data: see events.h and the .bpf.c files."""
