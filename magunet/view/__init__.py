"""Looking at a case and handing it on: viewers, meshes and files for other programs."""
