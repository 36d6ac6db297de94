"""How good a model's answers are: matched objects, descriptions, summaries, with intervals."""
