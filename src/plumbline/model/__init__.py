"""The model: names of its parts, the offline tiny checkpoint, checkpoints on disk, merging."""
