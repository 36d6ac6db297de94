"""Inference: an engine that answers requests, and the resumable run that turns pictures into caption rows."""
