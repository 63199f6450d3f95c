"""Networks: the paper's blocks, MAG-UNet, and the attention modules and networks it is compared with."""
