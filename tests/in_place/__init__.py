"""Quick tests of the runtime's pure parts, read where they are in the template."""
