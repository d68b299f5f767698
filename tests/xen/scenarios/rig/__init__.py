"""The scenarios' tools: guests, a host outside, the package, and waiting. All of them run in dom0."""
