"""How the embedded model was trained, and how jupyter sc2 train tunes it."""
