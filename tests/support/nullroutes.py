"""Null routes in nft: the configuration, the addresses of a blocked VM, and the addresses that it must not reach."""

NFT = '[enforce]\nnull_routes = "nft"\n'
IPS = ("10.50.0.11", "fd50::11")
OUTSIDE, DOM0 = ("10.50.0.2", "fd50::2"), ("10.50.0.1", "fd50::1")
