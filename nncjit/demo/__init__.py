"""The small real network that ships with the package; it runs in NumPy."""
