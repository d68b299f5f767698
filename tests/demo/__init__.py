"""`make demo`: a dom0 in miniature plays the whole story, and every claim it prints is checked."""
