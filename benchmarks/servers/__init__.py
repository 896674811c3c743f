"""What the serving benchmark needs: servers that run, and clients that ask them."""
