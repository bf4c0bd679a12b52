"""The engine on torch and transformers: fp32, bf16, fp16, 8-bit and 4-bit."""
