"""What passed an interface: by nft's counters, the kernel's own, or xentop. The daemon calls it; the CLI audits with
it."""
