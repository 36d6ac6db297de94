"""Mechanics of configuration: YAML with positions, `extends`, strict building of frozen dataclasses. No torch."""
