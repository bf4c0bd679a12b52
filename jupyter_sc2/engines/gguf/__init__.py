"""GGUF files: reading, finding and making them."""

# The command that installs the packages for these files.
EXTRA = 'pip install "jupyter-sc2[llamacpp]"'
