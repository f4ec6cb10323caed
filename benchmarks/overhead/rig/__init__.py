"""What `overhead.py` is made of: the tools it builds, the targets it starts, the load it puts on them, the report."""
