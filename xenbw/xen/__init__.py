"""What the Xen toolstack knows: parsers for xl/xm lists, xentop and domain config files, and the xenstore readers.
Nothing here decides or keeps anything; commands go through the runner that is passed in.
Called by cli, daemon, hook and net; calls only errors, runner, model and units."""
