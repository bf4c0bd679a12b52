"""Code as text, most of it half-written: its language, its brackets, its syntax tree."""
