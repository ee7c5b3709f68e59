#!/bin/sh
# Cookiecutter overwrites this empty file with its own, unless it was told to skip files that exist:
# that is how post_gen_project.py gets to know.
: > .headwater-placeholder
