"""The hook: Xen's vif scripts call it at each start and end of a vif, in the boot path of every VM. It is an entry
point: no other room imports it.
"""
