"""Weights in and out: other people's files, and ours in other people's tools.

* `naming`    our names and MAE's, timm's and Hugging Face's, and their layouts
* `reading`   arrays out of files, without running anything that lies in them
* `detecting` what a file's arrays are: which model, of what sizes
* `importing` a file becomes a run
* `exporting` a run becomes a file
* `compiled`  a run becomes a program, StableHLO
"""
