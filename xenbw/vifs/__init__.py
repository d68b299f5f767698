"""Which network interface belongs to which VM: sysfs, udev, and the census of bindings. The daemon calls it; the hook
and the blocks use its readers of sysfs.
"""
