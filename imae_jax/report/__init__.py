"""Pictures, curves and the HTML report of what a folder of runs holds."""
