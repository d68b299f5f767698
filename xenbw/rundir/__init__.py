"""Every file in /run/xenbw: who is over, what is pending, what is latched, the daemon's socket, and whose turn it is.

The hook, the daemon and the CLI share them, so each module here imports next to nothing.
"""
