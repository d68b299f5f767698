"""xenbwd: its loop and its rounds. It is an entry point: no other room imports it."""
