"""What leaves magunet: files for other programs, and pictures to turn in the hand."""
