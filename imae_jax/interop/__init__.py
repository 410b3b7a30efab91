"""Import of weights from other projects, and export to their formats.

* `mae_names`       parameter names and layouts of MAE, timm and Hugging Face
* `read_files`      reads arrays from files without executing their content
* `architecture`    infers the model and its sizes from a file's arrays
* `metadata`        model metadata stored next to the weights
* `native_format`   our own safetensors files
* `import_weights`  converts a file to a run
* `export_weights`  converts a run to a file
* `stablehlo`       exports a run as StableHLO programs
"""
