"""Where suggested text may come from: a local index of code, its matches, and a record of accepted suggestions.

Nothing here uses the network: the index is built from code on this machine, and lookups stay on it.
"""
