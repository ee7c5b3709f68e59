#!/bin/sh
# The entry point of a flow's image: runs the command that it is given. What is set here, each command
# has; `exec` lets the command get the signals that the container gets.
set -eu
exec "$@"
