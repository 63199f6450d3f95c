"""Data, from CT to network input: volumes, phantoms, cohorts, preparation, augmentation."""
