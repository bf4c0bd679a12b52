"""What magics and the panel show, as text, HTML or widgets."""
