"""The loss of a step from hidden rows: cross-entropy, divergence from the teacher, distance of visual features."""
