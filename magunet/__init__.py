"""magunet: sacroiliac-joint segmentation in CT, after the MAG-UNet paper.

Conventions, said once:

* Arrays are ``(d, h, w)`` in z-y-x order, tensors ``(b, c, d, h, w)``; SimpleITK is x-y-z.
* Spacing is in millimetres and in array order ``(z, y, x)``; origins and directions are world
  vectors ``(x, y, z)`` in LPS (x grows to the patient's left, y to posterior, z to superior).
* Image intensity is in Hounsfield units (HU) until ``magunet.prepare`` scales it to [0, 1].
* "Eq. n", "Table n", "Fig. n" are the paper's; see ``CITATION.cff``.
"""

import os

# Threads that wait for each other sleep instead of spinning. On an idle machine this costs little; where
# another process runs, spinning made a training step thirty times slower. Must be set before torch loads.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = "0.1.0"
