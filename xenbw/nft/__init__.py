"""The kernel's nftables: rules as text, batches, and what netlink says of our table. Only meters and blocks call it."""
