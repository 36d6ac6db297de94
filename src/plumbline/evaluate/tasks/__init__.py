"""Short questions with known answers, and how a model's answers to them compare with its base's."""
