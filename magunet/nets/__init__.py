"""Networks: the paper's blocks, MAG-UNet, and the attention modules it is compared with."""
