"""Commands of main.py: command line, config reference, demo, studies, data description."""
