"""Reads source code as text, most of it unfinished: its language, its brackets, its syntax tree."""
