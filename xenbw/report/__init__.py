"""How numbers leave the program: values in, text or JSON documents out. Nothing here opens a file or a ledger.

account.py is the value, explanation.py its parts, audit.py how they compare with what others counted; table.py draws
for people, document.py for programs. Called by the CLI.
"""
