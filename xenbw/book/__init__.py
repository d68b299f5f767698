"""The book, a MongoDB that several dom0s share: what a host pushes there and pulls from there. Daemon, doctor and CLI
call it; all use of MongoDB is here and in transfer.
"""
