"""Ideas for the calibrated encoder that were tried: what each makes of a file's size at equal quality."""
