"""Describes live objects and states what is certain about them, without running any of the user's code."""
