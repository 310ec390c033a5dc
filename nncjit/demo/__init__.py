"""The small real model that ships with the package, and what is needed to run it: NumPy alone."""
