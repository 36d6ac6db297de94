"""From samples to batches: how long a sample is, told without its pixels. No torch here."""
