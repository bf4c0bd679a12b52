"""How to live in a process that is the user's: threads, imports, output, warnings, files, child processes."""
