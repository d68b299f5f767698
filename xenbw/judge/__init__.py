"""Verdicts: the roster of VMs as they stand, and their standing, recorded. The daemon calls it, and the CLI where no
daemon runs.
"""
