"""Commands of main.py: the command line, config reference, demo, studies, data."""
