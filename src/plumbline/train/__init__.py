"""The run: configuration, trainer, distillation."""
