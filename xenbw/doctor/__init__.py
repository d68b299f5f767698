"""The checks of `xenbw doctor`: one module per topic, which first gathers facts and then judges them without I/O.

`examination` is the list of topics; `rig`, `wire` and `proof` send real packets. Only the CLI calls this room.
"""
