"""DeepCABAC (spec, sections 3 to 7)."""
