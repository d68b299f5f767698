"""How many bytes passed a vif: by our nft counters, the kernel's own, or xentop. The daemon meters with this room, the
CLI audits with it and shows present rates."""
