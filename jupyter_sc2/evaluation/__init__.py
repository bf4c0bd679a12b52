"""Measures the quality and the speed of completions, on the user's machine and on their notebooks."""
