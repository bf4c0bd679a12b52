"""The panel of widgets."""
