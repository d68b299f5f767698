"""xenbw: per-VM traffic metering and monthly quota enforcement for Xen hosts.

Data flows from xen, vifs and meters through accounting into ledger and book, and from there through quota and judge
to enforce, blocks, tell and report. hook, daemon, cli and doctor are the entry points. A package imports only the
packages below it: pyproject.toml, [tool.importlinter], has the order.
"""

__version__ = "0.2.0"
