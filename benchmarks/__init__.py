"""Measure what xenbw costs, beside a peer on the same machine. This prints figures and asserts nothing: machines
differ."""
