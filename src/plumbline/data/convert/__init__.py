"""Annotations of other tools to the JSONL contract, and back to COCO."""
