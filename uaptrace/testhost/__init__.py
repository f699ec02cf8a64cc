# SPDX-License-Identifier: Apache-2.0
"""What the scripts in kernel/ share: kernels, packages and file trees for guests.

Nothing here needs more than the standard library: the scripts run before there is a virtual environment.
"""
