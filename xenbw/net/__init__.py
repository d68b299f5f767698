"""The host's interfaces: which are guests' (interfaces), what they counted (counters), when they come and go (udev).

Called by the daemon; addresses.py is shared with the hook and imports next to nothing.
"""
