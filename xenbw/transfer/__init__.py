"""Export and import of the ledger, and the 2014 script's database. Only the CLI calls it."""
