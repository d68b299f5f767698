"""xenbw: per-VM traffic metering and monthly quota enforcement for Xen hosts.

The data's way through the packages: xen, net -> accounting, quota -> store -> enforce, notify, report;
daemon, hook and cli on top. Nothing below imports anything above.
"""

__version__ = "0.2.0"
