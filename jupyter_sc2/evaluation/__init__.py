"""How good and how quick the completions are, measured on one's own machine and on one's own notebooks."""
