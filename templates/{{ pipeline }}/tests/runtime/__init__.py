"""Tests of the runtime. They are the template's; your own go beside this folder."""
