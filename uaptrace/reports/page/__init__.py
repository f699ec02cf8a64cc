# SPDX-License-Identifier: Apache-2.0
"""``uaptrace report``: recordings gathered into figures, and these as a page, as Markdown and as JSON."""
