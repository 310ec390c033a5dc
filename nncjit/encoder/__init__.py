"""A model to a stream: options, plan, quantising, coding, writing."""
