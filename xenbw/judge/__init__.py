"""The roster: all VMs of this host with their allowances, present periods and usage. The daemon uses it, and the CLI
when no daemon runs.
"""
