"""Metaflow flows: flows/GROUP/FOLDER/FLOW.py, each file with one flow."""
