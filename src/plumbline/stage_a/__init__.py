"""Stage-A: one line of summary per picture, gathered per ticket."""
