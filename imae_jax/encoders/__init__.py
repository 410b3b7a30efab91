"""Encoders of any library as functions of images, and their separability."""
