"""How numbers leave the program: values in, text or JSON documents out. Nothing here opens a file or a ledger.

account.py is the value, table.py draws it for people, document.py for programs. Called by the CLI.
"""
