"""What everything else stands on: settings, provenance, device, progress, errors."""
