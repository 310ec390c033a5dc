"""What was gained and what it cost: measures, rate-quality curves, profiles, and pictures of them."""
