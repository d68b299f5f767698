"""Which network interface is whose: sysfs, udev, and the census of bindings. The daemon calls it; the hook and the
blocks use its readers of sysfs.
"""
