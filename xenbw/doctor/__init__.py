"""What `xenbw doctor` looks at: a module per topic, which gathers facts at its edge and judges them without I/O.

`examination` is the list of topics; `rig`, `wire` and `proof` send real packets. Called by the CLI only.
"""
