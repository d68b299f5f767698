"""What the scenarios are told with: guests, a host outside, the package, and patience. All of it runs in dom0."""
