"""What Xen's vif scripts call at each start and end of a vif. Nothing imports it: it is an entry point in the boot path of
every VM.
"""
