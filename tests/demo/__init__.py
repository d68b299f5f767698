"""`make demo`: the whole story in a miniature dom0; every printed claim is checked."""
