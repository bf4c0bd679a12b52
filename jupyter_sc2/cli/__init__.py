"""The command line, jupyter sc2."""
