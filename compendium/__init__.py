"""What a publication needs around the network: scores, tables, figures, audit, views and the command line."""
