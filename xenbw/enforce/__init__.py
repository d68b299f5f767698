"""Keeping blocked VMs out: what is desired (pure), what is there, and the repair of the difference.

A method (iptables; later nftables) never decides policy. Called by guard, for the daemon and the CLI; gate, overfile
and restore are the hook's share and import next to nothing.
"""
