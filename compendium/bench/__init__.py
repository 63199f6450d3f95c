"""Speed and memory of magunet beside others, measured side by side: ``magunet bench``."""
