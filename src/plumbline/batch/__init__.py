"""From samples to batches: sample lengths without opening pictures. No torch here."""
