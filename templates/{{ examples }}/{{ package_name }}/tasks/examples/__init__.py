"""Tasks to learn from. The template updates them: to change one, copy it."""
