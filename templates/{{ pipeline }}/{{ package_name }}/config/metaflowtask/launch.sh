#!/bin/sh
# The entry point of a flow's image: runs the container's command. Variables that you export here are set
# for each command. `exec` is needed so that the command gets the container's signals.
set -eu
exec "$@"
