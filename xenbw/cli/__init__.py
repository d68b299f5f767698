"""The command line: one module per command, its parser beside it; main.py has the table of them and the way out.

At the top of the arrows: it may call everything, and nothing calls it. What is slow to import (python-iptables) is
imported where it is used.
"""
