"""MongoDB, which several dom0s share: what a host pushes there and pulls from there. The daemon and the CLI call it;
all of MongoDB is here.
"""
