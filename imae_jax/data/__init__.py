"""Images: where they come from, in which pairs they are fed, how they reach the devices.

* `load`, `dataset`            data sets by name, behind one random-access interface
* `image_files`                images of any size, opened where they lie
* `image_folder`, `folder_layouts`   folders of images, and the layouts that people have
* `tfds_records`, `builders`   data sets that TFDS, or a builder of ours, has prepared
* `encoded_images`, `image_io`, `pixel_formats`   encoded files -> pixels
* `disk_cache`                 arrays that are decoded once
* `pair_sampler`               epochs of pairs, as a function of seed and step
* `input_pipeline`             batches on the devices
* `augment`, `randaugment`     augmentation on the devices
* `eval_splits`                the parts that evaluation uses
"""
