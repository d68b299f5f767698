"""Show numbers: turn values into text or JSON documents. Nothing here opens a file or a ledger.

account.py has a VM's numbers, explanation.py the parts of its usage, audit.py the comparison with other counters;
table.py prints for people, document.py for programs, pages.py for browsers, with plot.py for its charts. Called by the
CLI.
"""
