"""Import of weights from other projects, and export to their formats.

* `mae_names`       parameter names of MAE, and their layouts
* `read_files`      arrays from files, without running anything that lies in them;
                    `file_kinds`, `nested_weights`, `pickle_stand_ins` are parts of it
* `architecture`    the model that a file's arrays belong to, and its sizes
* `metadata`        model metadata stored next to the weights
* `import_weights`  a file becomes a run
* `export_weights`  a run becomes a file
* `native_format`, `state_dict`, `timm`, `huggingface`, `imae_release`, `big_vision`,
  `stablehlo`       one format each
"""
