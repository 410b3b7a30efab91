"""Images: where they come from, in which pairs they are fed, how they reach the devices.

* `sources`   data sets by name, behind one random-access interface
* `prepared`, `folder`   the two kinds: prepared by TFDS, or a folder read in place
* `digits`, `shapes` (and `outlines`), `cifar`, `tiny_imagenet`   builders of our own
* `archives`, `encoding`, `cache`   what builders read and write
* `decode`, `images`   encoded files -> pixels
* `pairs`     epochs of pairs, as a function of seed and step
* `feeds`     batches on the devices
* `parts`     what evaluation uses
"""
