"""The command line: one module for each command and its parser; main.py has the table of commands and prints errors.

This room may call all others, and none calls it. Modules that are slow to import (python-iptables) are imported where
they are used.
"""
