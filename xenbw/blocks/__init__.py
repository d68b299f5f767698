"""The ways to hold a VM, each in one module. The room enforce says which VMs to hold; nothing here decides that."""
