# SPDX-License-Identifier: Apache-2.0
"""The dashboards as Python: one module for each, ``panels`` has the parts they are made of."""
