"""The codec: a model to a stream and back."""
