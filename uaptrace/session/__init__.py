# SPDX-License-Identifier: Apache-2.0
"""From updates to snapshots: live, replayed or from another host, and the one loop that turns them."""
