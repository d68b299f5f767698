"""The kernel's nftables: rules as text, batches, and reading our table by netlink. Only meters and blocks call it."""
