"""Commands of main.py beyond training and evaluation."""
