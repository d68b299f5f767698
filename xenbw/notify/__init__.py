"""Telling the admin: what a message says (message), how it is sent (mail), and the thread that sends it (courier)."""
