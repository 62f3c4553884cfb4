"""The outside systems, one file each. A sink is told what to write and says what became of each record
(`contract.py`)."""
