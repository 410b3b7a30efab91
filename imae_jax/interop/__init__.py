"""Weights of other projects, and ours in their formats.

* `mae_names`       parameter names of MAE, timm and Hugging Face, and their layouts
* `read_files`      arrays from files, without running anything that lies in them
* `architecture`    the model that a file's arrays belong to, and its sizes
* `metadata`        model metadata stored next to the weights
* `native_format`   our own safetensors
* `import_weights`  a file becomes a run
* `export_weights`  a run becomes a file
* `stablehlo`       a run becomes a program
"""
