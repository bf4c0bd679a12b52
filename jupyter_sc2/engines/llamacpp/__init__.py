"""The engine on llama.cpp, which runs in a process of its own."""
