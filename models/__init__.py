"""Vendors' libraries behind one contract (`base.py`): pictures in, opinions out."""
