"""Looking at runs by their folders alone: listing, showing, following and comparing them."""
