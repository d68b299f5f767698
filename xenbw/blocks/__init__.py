"""The ways to hold a VM, each in one module. What is to be held comes from enforce; nothing here decides who is
blocked."""
