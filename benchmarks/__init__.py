"""What xenbw costs, measured against what is there anyway. Prints figures; asserts nothing, for machines differ."""
