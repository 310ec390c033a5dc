"""A stream to arrays: open, decode, compose, verify, inspect."""
