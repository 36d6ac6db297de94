"""Augmentation that is planned from metadata before it is rendered."""
