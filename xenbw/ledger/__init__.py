"""This host's truth: one SQLite file, its schema, its repair. All SQL is here. Whoever reads or writes usage, blocks or
bindings comes here; nothing here calls MongoDB, the kernel or the toolstack.
"""
