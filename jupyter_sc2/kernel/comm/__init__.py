"""The comm that JupyterLab speaks to the kernel over."""
