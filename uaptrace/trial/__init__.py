# SPDX-License-Identifier: Apache-2.0
"""``uaptrace trial``: the same work on several kernels, and one table of what came of it.

``plan`` says what is to be run, ``boot`` runs it, ``guest`` is what runs in each virtual machine, ``figures`` names what is measured,
``compare`` and ``conditions`` judge, ``texts`` and ``ci`` say it. Only ``boot`` and ``guest`` do I/O.
"""
