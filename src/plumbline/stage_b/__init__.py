"""Stage-B: a verdict per ticket from its summaries, by a frozen model and guidance that improves under a gate."""
