"""The output of magics and the panel, as text, HTML or widgets."""
