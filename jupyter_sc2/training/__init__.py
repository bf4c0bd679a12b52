"""How the embedded model was trained, and the recipe that `jupyter sc2 train` uses."""
