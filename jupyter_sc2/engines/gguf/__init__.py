"""GGUF files: read, found and made."""

# How what these files need is installed.
EXTRA = 'pip install "jupyter-sc2[llamacpp]"'
