"""Images: where they come from (`sources`) and in which pairs they are fed (`pairs`)."""
