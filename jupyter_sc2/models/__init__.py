"""Models and their files: what is known of each, where its weights are, and what fits this machine."""
