"""Where usage is kept: the ledger (SQLite), this host's truth, written by daemon, hook and CLI.

bindings.py is the part the hook imports, kept light on purpose; everyone above may call the ledger.
"""
