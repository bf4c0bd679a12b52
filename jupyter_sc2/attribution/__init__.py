"""Where suggested text may come from: a local index of code, what matches it, and a record of what was accepted.

Nothing here asks anybody: the index is made from code on this machine, and looked up on it.
"""
