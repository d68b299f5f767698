"""Enforcement: desired.py says what must be blocked (pure), protect.py what never may be, and reconcile.py has the
blocks make it so. The daemon and the CLI call this room; the hook does not.
"""
