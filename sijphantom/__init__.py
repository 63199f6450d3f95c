"""A CT phantom of the sacroiliac joints: anatomy, tissue, disease, scanner. It knows nothing of networks."""
