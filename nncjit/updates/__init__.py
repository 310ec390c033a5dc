"""Models as differences from models that the receiver has: updates, chains of them, and both ends of a link."""
