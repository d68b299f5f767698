"""The files in /run/xenbw: the over file, the hooks' notes, marks of latched domains, the daemon's socket, the lock.

The hook, the daemon and the CLI share them. The modules that the hook uses import next to nothing.
"""
