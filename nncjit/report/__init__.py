"""Measures of size and quality, rate-quality curves, profiles, and plots of them."""
