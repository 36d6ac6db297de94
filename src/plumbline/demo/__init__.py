"""The demonstration: annotated photographs, rendered rack scenes, and the whole road run once on them."""
