"""This host's truth: one SQLite file, its schema, its repair. All SQL is here. Every room that reads or writes usage,
blocks or bindings calls this one; nothing here calls MongoDB, the kernel or the toolstack.
"""
