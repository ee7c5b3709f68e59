"""Flows to learn from. They are the template's: copy one to change it."""
