"""What the Xen toolstack knows: parsers for xl/xm lists, xentop and domain config files, and the xenstore readers.
Nothing here decides or stores anything; commands go through the runner that the caller passes in.
Every room above may call this one; it calls only the ground modules."""
