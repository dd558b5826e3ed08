"""`kindling new`: a project of one's own out of this repository. Imports nothing that has to be installed."""
