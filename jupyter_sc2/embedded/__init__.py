"""The small model that ships with the package (`model/`), and the recipe that it was trained by."""
