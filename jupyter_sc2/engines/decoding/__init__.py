"""Decoding that no engine has for itself: sampling, beam search, draft tokens, token healing, prefix caches."""
