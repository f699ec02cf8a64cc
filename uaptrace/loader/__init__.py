# SPDX-License-Identifier: Apache-2.0
"""The privileged, short-lived child: probes, bcc, attach, hand-over. The only importer of bcc."""
