"""The engine for a completions server: vLLM, llama-server, TGI, Ollama and the like."""
