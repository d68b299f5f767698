"""What Xen's vif scripts call at each start and end of a vif. It is an entry point in the boot path of every VM: no
other room imports it.
"""
