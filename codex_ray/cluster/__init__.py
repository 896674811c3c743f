"""Starting or joining Ray, and refusing early what a cluster can never give."""
