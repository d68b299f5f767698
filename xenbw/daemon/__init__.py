"""xenbwd: the loop and its rounds. Nothing imports it: it is an entry point."""
