"""Data sets, image decoding, pair sampling, augmentation and the input pipeline.

* `load`, `dataset`            data sets by name, behind one random-access interface
* `image_files`                images of any size, read in place
* `image_folder`, `folder_layouts`   folders of images and their supported layouts
* `prepared_folders`, `tfds_records`, `builders`   data sets prepared by TFDS or by a
  builder of ours
* `encoded_images`, `image_io`, `pixel_formats`   encoded files -> pixels
* `disk_cache`                 cache of decoded arrays on disk
* `group_sampler`              pairs or groups of images as a function of seed and step
* `input_pipeline`             batches on the devices
* `augment`, `randaugment`     augmentation on the devices
* `eval_splits`                train, validation and test splits for evaluation
"""
