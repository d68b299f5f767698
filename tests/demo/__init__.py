"""`make demo`: play the whole story on a dom0 in miniature, and check every claim that is printed."""
